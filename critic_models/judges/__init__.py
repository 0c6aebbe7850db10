"""Judges: everything that scores a response, behind one protocol."""

from critic_models.judges.callables import CallableJudge
from critic_models.judges.classifier import ClassifierJudge
from critic_models.judges.guard_llm import GuardJudge
from critic_models.judges.loading import as_judge, judge_of, load_judge
from critic_models.judges.protocol import Judge, Kind, TokenJudge
from critic_models.judges.remote import ClassifyJudge, HttpJudge, TokenClassifyJudge, VerdictJudge
from critic_models.judges.score import ScoreJudge
from critic_models.judges.templates import FAMILIES, GuardTemplate
from critic_models.safety.budget import Accounting

__all__ = [
    "FAMILIES",
    "Accounting",
    "CallableJudge",
    "ClassifierJudge",
    "ClassifyJudge",
    "GuardJudge",
    "GuardTemplate",
    "HttpJudge",
    "Judge",
    "Kind",
    "ScoreJudge",
    "TokenClassifyJudge",
    "TokenJudge",
    "VerdictJudge",
    "as_judge",
    "judge_of",
    "load_judge",
]
