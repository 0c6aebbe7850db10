"""InferenceGuard's block search."""

from ig_plugins.search.block import BlockSearch, Capacity, Outcome
from ig_plugins.search.config import SearchConfig
from ig_plugins.search.direct import DirectScoring
from ig_plugins.search.foreseen import CriticScoring
from ig_plugins.search.lanes import Answer, Row
from ig_plugins.search.path import Measure, Step
from ig_plugins.search.policy import Policy
from ig_plugins.search.request import Request

__all__ = [
    "Answer",
    "BlockSearch",
    "Capacity",
    "CriticScoring",
    "DirectScoring",
    "Measure",
    "Outcome",
    "Policy",
    "Request",
    "Row",
    "SearchConfig",
    "Step",
]
