"""Helper threads that nobody needs go, so that those of the thread that decodes need not sleep between operations."""

import subprocess
import sys
import threading

import pytest

from ig_plugins.runtime import openmp, release_openmp_threads
from ig_plugins.runtime.fair_lock import FairLock
from tests.kit.guards import make_guard
from tests.kit.observe import until

pytestmark = pytest.mark.skipif(not openmp._runtimes(), reason="torch does not run on GNU's OpenMP here")

COUNTS = """
import os, threading
import torch
from ig_plugins.runtime import openmp, release_openmp_threads

def threads():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(3)
work = torch.ones(400, 400)
found = work @ work
many = threads()
release_openmp_threads()
few = threads()
same = torch.equal(work @ work, found)
found = [many - few, threads() - few, same, torch.get_num_threads()]
own = [line.split()[-1] for line in open("/proc/self/maps") if "/torch/lib/libgomp" in line]
print(*(["too old"] if {*own} - {each._name for each in openmp._runtimes()} else found))
release_openmp_threads()
release_openmp_threads()
"""


def test_idle_threads_are_ended_and_made_anew_when_needed():
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, timeout=120, check=True)
    if done.stdout.split() == ["too", "old"]:  # other libraries here bring a newer one, for themselves
        pytest.skip("torch's own libgomp is older than GCC 9 (that of 2.6 is), which cannot release threads")
    assert done.stdout.split() == ["2", "2", "True", "3"]


@pytest.fixture
def released(monkeypatch):
    """The threads that released their idle OpenMP threads."""
    seen = []

    def watched():
        seen.append(threading.current_thread())
        release_openmp_threads()

    for place in ("worker", "fair_lock"):
        monkeypatch.setattr(sys.modules[f"ig_plugins.runtime.{place}"], "release_openmp_threads", watched)
    return seen


def test_a_caller_releases_its_idle_threads_before_it_waits(released):
    make_guard({"Hello.": 1.0}).generate("Hi")
    assert released[0] is threading.current_thread()


def test_a_thread_that_passes_the_lock_on_releases_its_idle_threads(released):
    lock = FairLock()
    with lock:
        pass
    assert released == []  # nobody waited
    with lock:
        other = threading.Thread(target=lambda: lock.__enter__())
        other.start()
        until(lambda: lock._drawn == 3)
    other.join(5)
    assert released == [threading.current_thread()]


def test_without_gnu_nothing_is_done(monkeypatch, tmp_path):
    monkeypatch.setattr(openmp, "MAPS", tmp_path / "none")
    assert openmp._runtimes.__wrapped__() == []
    (tmp_path / "maps").write_text("7f-80 r-xp 0 00:00 1    /gone/libgomp.so.1 (deleted)\n81-82 r-xp 0 00:00 0\n")
    monkeypatch.setattr(openmp, "MAPS", tmp_path / "maps")
    assert openmp._runtimes.__wrapped__() == []
