"""A forked child answers, and its parent's answers do not notice: gunicorn --preload, multiprocessing."""

import os
import subprocess
import sys
import threading
import time

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

HEAD = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads, which is the point
import torch
from tests.kit.guards import make_guard
from tests.kit.tiny import tiny_guard
from tests.kit.slow import slow_guard

def in_child(work, seconds=40):
    \"\"\"What a forked child says; None if it hangs.\"\"\"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(work()).encode())
        except BaseException as error:
            os.write(write, (type(error).__name__ + ": " + str(error)).encode())
        finally:
            os._exit(0)
    os.close(write)
    end = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)
    return os.read(read, 100_000).decode()
"""


def run(script, *, threads=1):
    """The lines that a script prints, in a process of its own, so that the tests' own threads stay out of it."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_child_answers_after_its_parent_has(threads):
    """Twice, real models: right after an answer, and when the worker's thread has gone."""
    lines = run(
        """
guard = tiny_guard()
ask = lambda: guard.generate("Go.", seed=1).token_ids
mine = str(ask())
print(in_child(ask) == mine)
time.sleep(0.5)
torch.ones(500, 500) @ torch.ones(500, 500)  # makes a team of helpers on the forking thread
print(in_child(ask) == mine)
print(in_child(lambda: in_child(ask)) == mine)
print(str(ask()) == mine)
""",
        threads=threads,
    )
    assert lines == ["True"] * 4


def test_a_child_answers_though_its_parent_was_decoding():
    """At any moment of many: between blocks and within them, of this guard and of another."""
    lines = run("""
guard, other = tiny_guard(search={"max_new_tokens": 60}), tiny_guard()
ask = lambda: guard.generate("Go.", seed=1).token_ids
mine, others = ask(), other.generate("Go.", seed=2).token_ids
found, stop = [], threading.Event()
def decode():
    while not stop.is_set():
        found.append(ask())
threads = [threading.Thread(target=decode) for _ in range(2)]
for thread in threads: thread.start()
for n in range(12):
    time.sleep(0.013 * n)
    print(in_child(ask) == str(mine), in_child(lambda: other.generate("Go.", seed=2).token_ids) == str(others))
stop.set()
for thread in threads: thread.join()
print(set(found) == {mine})
""")
    assert lines == ["True True"] * 12 + ["True"]


def test_a_child_answers_though_a_judge_of_its_parent_was_asked():
    lines = run("""
free = threading.Event()
def judge(prompts, responses):
    if os.getpid() == parent:
        free.wait(30)
    return [-1.0] * len(responses)
parent = os.getpid()
guard = make_guard({"Hello.": 1.0}, cost=judge)
found = []
asking = threading.Thread(target=lambda: found.append(guard.generate("Go.").text))
asking.start()
time.sleep(0.3)
print(in_child(lambda: guard.generate("Go.").text))
free.set()
asking.join(30)
print(found)
""")
    assert lines == ["Hello.", "['Hello.']"]


def test_a_stream_of_the_parent_is_not_waited_for_in_the_child():
    lines = run("""
guard = slow_guard({"word " * 20: 1.0})
stream = guard.stream("Go.")
first = next(stream).text
print(in_child(lambda: next(stream)))
print(first + "".join(chunk.text for chunk in stream) == "word " * 20)
""")
    assert lines[0].startswith("RequestCancelledError: this answer was begun before a fork, by the parent process")
    assert lines[1:] == ["True"]


def test_multiprocessing_forks_a_pool_under_way():
    lines = run("""
import multiprocessing
guard = tiny_guard()
def ask(seed):
    return guard.generate("Go.", seed=seed).token_ids
mine = [ask(seed) for seed in range(4)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map_async(ask, range(4)).get(60) == mine)
""")
    assert lines == ["True"]


def test_a_fork_waits_for_a_block_but_not_for_ever(monkeypatch):
    from ig_plugins.runtime.fair_lock import FairLock

    turn, entered, leave = FairLock(), threading.Event(), threading.Event()

    def work():
        with turn:
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(20)
    started = time.monotonic()
    turn.pause(seconds=0.2)
    assert 0.15 < time.monotonic() - started < 10
    leave.set()
    thread.join(20)
    late = threading.Thread(target=work)
    late.start()
    late.join(0.1)
    assert late.is_alive()  # nobody gets a turn during a pause
    turn.go_on()
    late.join(20)
    assert not late.is_alive()
    with turn:
        turn.pause(seconds=20)  # whoever has it does not wait for itself
        turn.go_on()


def test_where_nothing_forks_everything_is_imported_all_the_same():
    """Windows has neither `os.fork` nor the module `resource`."""
    code = (
        "import os, sys, psutil, uvicorn; from transformers import AutoModelForCausalLM, PreTrainedModel\n"
        "del os.fork, os.register_at_fork; sys.modules['resource'] = None\n"
        "import ig_plugins.server.app, ig_plugins.guard, ig_plugins.runtime, critic_models.judges"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
