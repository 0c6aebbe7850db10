"""The OpenMP threads that a thread's parallel operations leave behind, and their release.

Every thread that ran a parallel operation of torch keeps helper threads for the next one. GNU's OpenMP counts all of
them, and when there are more than processors, helpers block after every operation instead of spinning. A guard decodes
on a thread of its own, so the helpers of the thread that loaded it are enough to make the many small operations of a
step several times slower (docs/performance.md). So a thread releases its helpers when it is done.
"""

import ctypes
from functools import cache
from pathlib import Path

SOFT = 1  # omp_pause_soft: settings are kept, and threads are created again when needed
MAPS = Path("/proc/self/maps")


def release_openmp_threads() -> None:
    """End the calling thread's idle helpers, where GNU's OpenMP is in use; elsewhere this does nothing."""
    for runtime in _runtimes():
        runtime.omp_pause_resource_all(SOFT)


@cache
def _runtimes() -> list[ctypes.CDLL]:
    """The libraries of GNU's OpenMP in this process, torch's among them, that can release threads: from GCC 9 on."""
    lines = MAPS.read_text().splitlines() if MAPS.exists() else []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    loaded = [ctypes.CDLL(path) for path in sorted(paths) if Path(path).exists()]
    return [runtime for runtime in loaded if hasattr(runtime, "omp_pause_resource_all")]
