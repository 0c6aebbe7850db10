"""Who owns the models and the thread that runs them."""

from ig_plugins.runtime.registry import shared
from ig_plugins.runtime.worker import Engine, Job, Worker, worker

__all__ = ["Engine", "Job", "Worker", "shared", "worker"]
