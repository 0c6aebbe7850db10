"""Judges behind HTTP: any endpoint that speaks a small JSON form, and models that vLLM serves."""

from critic_models.judges.remote.addresses import is_address, judge_at
from critic_models.judges.remote.classify import ClassifyJudge
from critic_models.judges.remote.http import HttpJudge
from critic_models.judges.remote.tokens import TokenClassifyJudge
from critic_models.judges.remote.verdicts import VerdictJudge

__all__ = ["ClassifyJudge", "HttpJudge", "TokenClassifyJudge", "VerdictJudge", "is_address", "judge_at"]
