"""Who owns the models and the threads that run them."""

from ig_plugins.runtime.batch import Engine, Job
from ig_plugins.runtime.registry import shared
from ig_plugins.runtime.team import release_openmp_threads
from ig_plugins.runtime.worker import Worker, worker

__all__ = ["Engine", "Job", "Worker", "release_openmp_threads", "shared", "worker"]
