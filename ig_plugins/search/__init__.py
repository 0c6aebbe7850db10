"""InferenceGuard's block search."""

from ig_plugins.search.block_search import BlockSearch, Capacity, Outcome
from ig_plugins.search.config import SearchConfig
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
