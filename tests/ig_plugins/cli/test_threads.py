"""What OpenMP is told about threads before torch is loaded."""

import os
import subprocess
import sys

import pytest

from ig_plugins.cli import threads

SCRIPT = """
import contextlib, sys
from ig_plugins.cli import main
sys.argv = ["inferenceguard", "presets"]
with contextlib.suppress(SystemExit):
    main()
import torch
"""


@pytest.mark.parametrize(
    ("said", "spins"),
    [({}, "10000 0"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_openmp_hears_it_before_torch_is_loaded_and_the_user_wins(said, spins):
    mine = {name: value for name, value in os.environ.items() if name not in (*threads.WAITING, *threads.THREADS)}
    environment = {**mine, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_DISPLAY_ENV": "verbose", **said}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch was not built with GNU's OpenMP")
    assert any(f"GOMP_SPINCOUNT = '{each}'" in done.stderr for each in spins.split()), done.stderr


@pytest.mark.parametrize(("load", "spins"), [(0.0, "10000"), (7.9, "10000"), (8.1, "0"), (300.0, "0")])
def test_threads_do_not_spin_at_all_beside_other_work(monkeypatch, load, spins):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    environment = {}
    threads.prepare(environment)
    assert environment["GOMP_SPINCOUNT"] == spins


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"a.slice/b.service/cpu.max": "50000 100000\n", "cpu.max": "max 100000\n"}, 0.5),
        ({"a.slice/b.service/cpu.max": "max 100000\n", "cpu.max": "400000 100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
    ],
)
def test_a_containers_quota_of_cores_is_read(tmp_path, files, cores):
    (tmp_path / "mine").write_text("12:cpu:/x\n0::/a.slice/b.service\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert threads.cores_allowed(groups=tmp_path / "groups", mine=tmp_path / "mine") == cores


@pytest.mark.parametrize(
    ("quota", "said", "told"),
    [
        (2.5, {}, "2"),
        (0.5, {}, "1"),
        (None, {}, None),
        (64.0, {}, None),  # more than there are
        (2.5, {"OMP_NUM_THREADS": "5"}, "5"),
        (2.5, {"MKL_NUM_THREADS": "5"}, None),
    ],
)
def test_there_are_no_more_threads_than_the_quota_has_cores(monkeypatch, quota, said, told):
    monkeypatch.setattr(threads, "cores_allowed", lambda: quota)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    environment = dict(said)
    threads.prepare(environment)
    assert environment.get("OMP_NUM_THREADS") == told
