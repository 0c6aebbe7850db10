"""What an operator allows one request."""

import pytest

from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import Options
from ig_plugins.server.limits import Limits, lane_tokens


def test_the_operators_time_is_the_longest():
    limits = Limits(timeout=10.0)
    assert [limits.seconds(wanted) for wanted in (None, 3600.0, 2.0)] == [10.0, 10.0, 2.0]


@pytest.mark.parametrize(
    ("limits", "wanted", "named"),
    [
        ({"candidates": 8}, {"candidates": 9}, "candidates is 9"),
        ({"beams": 4}, {"candidates": 8, "beams": 5}, "beams is 5"),
        ({"block_tokens": 16}, {"block_tokens": 17}, "block_tokens is 17"),
        ({"max_tokens": 99}, {"max_tokens": 100}, "max_tokens is 100"),
        ({"tries": 3}, {"tries": 4}, "tries is 4"),
        ({"stops": 1}, {"stop": ["a", "b"]}, "stops is 2"),
        ({"lane_tokens": 99}, {"candidates": 8, "beams": 2, "block_tokens": 10}, r"x block_tokens is 100, .* 99"),
    ],
)
def test_each_ceiling_is_held_and_named(limits, wanted, named):
    small = Options().updated(candidates=1, beams=1, block_tokens=1, max_tokens=1, tries=1)
    with pytest.raises(ConfigurationError, match=named):
        Limits(**limits).check(small.updated(**{"max_tokens": 64, **wanted}), small)


def test_what_the_guard_asks_for_itself_is_below_every_ceiling():
    guards = Options().updated(candidates=8, beams=2, block_tokens=10, stop=["a", "b"])
    Limits(candidates=1, beams=1, block_tokens=1, max_tokens=1, tries=1, lane_tokens=1, stops=0).check(guards, guards)
    assert lane_tokens(guards) == 100
