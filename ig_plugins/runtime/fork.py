"""What a fork must not break: a child has the parent's memory and none of its threads.

Locks that another thread held stay locked in the child, lines of work wait for threads that are gone, and OpenMP waits
for helpers that are gone. So a fork waits for the end of the block that is being decoded, and the child starts anew:
the weights are there, nothing is under way. CUDA cannot be used in a forked child at all; see torch's notes on
multiprocessing.
"""

from __future__ import annotations

import os

from ig_plugins.runtime import judging, model_cache
from ig_plugins.runtime.fair_lock import torch_lock
from ig_plugins.runtime.openmp import release_openmp_threads
from ig_plugins.runtime.worker import worker

SECONDS = 10.0  # a block may take longer than a fork should wait; the child is then at its own risk


def _before() -> None:
    torch_lock.pause(seconds=SECONDS)
    release_openmp_threads()


def _in_child() -> None:
    torch_lock.reset()
    model_cache.reset()
    judging.reset()
    worker().reset()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before, after_in_parent=torch_lock.go_on, after_in_child=_in_child)
