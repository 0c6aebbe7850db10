import pytest

from tests.ig_plugins.remote.fuzz import fuzz


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


@pytest.mark.slow
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_two_hundred_answers(kind, states):
    check(fuzz(200, kind=kind, states=states), 200)
