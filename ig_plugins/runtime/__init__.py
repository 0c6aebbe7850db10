"""Who owns the models and the threads that run them."""

from ig_plugins.runtime import fork
from ig_plugins.runtime.batch import Engine, Job
from ig_plugins.runtime.judging import ask_judge
from ig_plugins.runtime.model_cache import place_of, shared
from ig_plugins.runtime.openmp import release_openmp_threads
from ig_plugins.runtime.worker import Worker, worker

__all__ = ["Engine", "Job", "Worker", "ask_judge", "fork", "place_of", "release_openmp_threads", "shared", "worker"]
