"""The helper threads that a thread's parallel operations leave behind.

Every thread that ran a parallel operation of torch keeps a team of OpenMP threads for the next one. GNU's OpenMP counts
them all, and when there are more than processors, teams sleep after every operation and have to be woken for the next.
A guard decodes on a thread of its own, so the team of the thread that loaded it is enough to make the many small
operations of a step several times slower (docs/performance.md). Hence whoever is done sends its team home.
"""

import ctypes
from functools import cache
from pathlib import Path

SOFT = 1  # omp_pause_soft: settings are kept; a team is made anew when the thread needs one
MAPS = Path("/proc/self/maps")


def release_openmp_threads() -> None:
    """End the calling thread's idle helpers, where GNU's OpenMP is in use; elsewhere this does nothing."""
    for runtime in _runtimes():
        runtime.omp_pause_resource_all(SOFT)


@cache
def _runtimes() -> list[ctypes.CDLL]:
    """The libraries of GNU's OpenMP that this process has loaded, torch's among them."""
    lines = MAPS.read_text().splitlines() if MAPS.exists() else []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
    loaded = [ctypes.CDLL(path) for path in sorted(paths) if Path(path).exists()]
    return [runtime for runtime in loaded if hasattr(runtime, "omp_pause_resource_all")]
