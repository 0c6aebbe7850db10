import threading

import pytest

from ig_plugins import DeadlineExceededError
from tests.ig_plugins.remote.conftest import QUESTION
from tests.ig_plugins.remote.fuzz import fuzz, plan_of
from tests.kit.observe import until


def check(found, answers):
    assert found.unjudged == 0
    assert found.untyped == []
    assert found.late == 0, f"the slowest took {found.slowest:.1f} s"
    assert found.dead == []
    assert sum(found.ends.values()) == answers
    assert len(found.ends) > 1, "no fault met an answer"


@pytest.mark.parametrize("states", [False, True])
def test_a_server_that_fails_at_any_moment_lets_nothing_unjudged_leave(states):
    check(fuzz(12, seed=1, states=states), 12)


def test_a_fault_that_comes_late_kills_no_server_that_was_started_since(engine, guarded):
    """One guard in 400 could not answer afterwards: another call of the failed block killed the next server."""
    server = engine()
    guard = guarded(server, load_options={"attempts": 2})
    kill, goes_on, killed = server.kill, threading.Event(), []

    def late(*life):
        goes_on.wait(20)
        kill(*life)
        killed.append(life)

    server.kill = late
    server.plan = plan_of(server, None, len(server.bodies), 1)
    with pytest.raises(DeadlineExceededError):
        guard.generate(QUESTION, timeout=0.5)
    server.plan = lambda number, body: None
    kill()
    server.start()
    goes_on.set()
    until(lambda: killed)
    assert guard.generate(QUESTION, timeout=60).text
    server.kill = kill


@pytest.mark.slow
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_two_hundred_answers(kind, states):
    check(fuzz(200, kind=kind, states=states), 200)
