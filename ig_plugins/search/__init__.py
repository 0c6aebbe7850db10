"""InferenceGuard's block search.

Its settings are part of every preset, so that importing them loads no torch; the search does when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ig_plugins.search.config import SearchConfig

if TYPE_CHECKING:
    from ig_plugins.search.block_search import BlockSearch, Capacity, Outcome
    from ig_plugins.search.lanes import Answer, Row
    from ig_plugins.search.policy import Policy, PolicyModel, PolicySession
    from ig_plugins.search.request import Request
    from ig_plugins.search.scoring.critic import CriticScoring
    from ig_plugins.search.scoring.direct import DirectScoring
    from ig_plugins.search.trajectory import Border, Step
    from ig_plugins.search.verifier import Trail, may_leave

__all__ = [
    "Answer",
    "BlockSearch",
    "Border",
    "Capacity",
    "CriticScoring",
    "DirectScoring",
    "Outcome",
    "Policy",
    "PolicyModel",
    "PolicySession",
    "Request",
    "Row",
    "SearchConfig",
    "Step",
    "Trail",
    "may_leave",
]

_HOMES = {
    "Answer": "lanes",
    "BlockSearch": "block_search",
    "Border": "trajectory",
    "Capacity": "block_search",
    "CriticScoring": "scoring.critic",
    "DirectScoring": "scoring.direct",
    "Outcome": "block_search",
    "Policy": "policy",
    "PolicyModel": "policy",
    "PolicySession": "policy",
    "Request": "request",
    "Row": "lanes",
    "Step": "trajectory",
    "Trail": "verifier",
    "may_leave": "verifier",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
