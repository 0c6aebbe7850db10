"""How torch's threads wait, and how many there are: OpenMP is told before torch is loaded, which reads it once.

The threads of a step wait for one another after every operation, and GNU's OpenMP lets them spin for 300,000 rounds,
milliseconds in all. On idle cores none waits so long. Beside other work a thread that waits holds the core that the
one which it waits for would need: an answer then takes ten times as long, or longer (docs/performance.md). How they
wait decides the time alone; how many there are may decide the last bit of a number as well, so no load changes that.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

SPINS = "10000"  # as fast as the default on idle cores, and a protection against work that comes later
BUSY = 0.5  # of the cores at work in the last minute, from which on threads do not spin at all
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
GROUPS, MINE = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets what the user has not: shorter waiting, and no more threads than a container's quota of cores.

    Args:
        environment: Of the process.
    """
    cores = os.cpu_count() or 1
    if not any(name in environment for name in WAITING):
        environment["GOMP_SPINCOUNT"] = "0" if _load() > BUSY * cores else SPINS
    quota = cores_allowed()
    if quota is not None and quota < cores and not any(name in environment for name in THREADS):
        environment["OMP_NUM_THREADS"] = str(max(1, int(quota)))


def cores_allowed(*, groups: Path = GROUPS, mine: Path = MINE) -> float | None:
    """The cores' worth of time that Linux gives to this process's control group; None for no limit.

    Args:
        groups: Where control groups are mounted.
        mine: Says which one this process is in.
    """
    own = next((line[4:] for line in _read(mine).splitlines() if line.startswith("0::/")), "")
    for place in (groups / own, groups):
        quota, _, period = _read(place / "cpu.max").partition(" ")  # version 2 of control groups
        if quota.isdigit():
            return int(quota) / int(period)
    quota, period = (_read(groups / "cpu" / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # version 1
    return int(quota) / int(period) if quota.strip().isdigit() and period.strip().isdigit() else None


def _load() -> float:
    """How many cores others have kept busy in the last minute, 0 where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
