"""Guard LLMs behind vLLM: the probability of "unsafe" where the verdict stands, by ``logprob_token_ids``."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from critic_models.errors import ConfigurationError
from critic_models.identity import describe
from critic_models.judges.protocol import LARGEST
from critic_models.judges.questions import GuardQuestion, check_mass
from critic_models.judges.remote.served import ServedJudge, numbers_of
from critic_models.judges.templates import GuardTemplate

logger = logging.getLogger(__name__)
ROUNDED = 1e-3  # that a probability may be off


class VerdictJudge(ServedJudge):
    """As `critic_models.judges.GuardJudge`, with the model behind ``/v1/completions``: one token of each question.

    Args:
        url: Of ``/v1/completions``.
        tokenizer: The guard's own.
        template: See ``templates.guard_template``.
        min_mass: Least probability of the verdict words together; below, the answer counts as unsafe.
        **options: As `ServedJudge`.

    Raises:
        ConfigurationError: As `GuardJudge`.
        JudgeError: The server cannot be asked where the verdict stands.
    """

    def __init__(
        self, url: str, *, template: str | GuardTemplate | None = None, min_mass: float = 0.05, **options: Any
    ) -> None:
        super().__init__(url, **{"limit": 0.5, **options})
        if self.tokenizer is None:
            raise ConfigurationError("a guard LLM needs tokenizer=, its own: questions are sent in its tokens")
        self.min_mass = check_mass(min_mass)
        self.question = GuardQuestion(self.tokenizer, template, name=self.name)
        self.lead = self.question.lead(self._behind)

    def identity_parts(self) -> dict[str, Any]:
        """See `HttpJudge`."""
        known = {"template": describe(self.question.template), "min_mass": self.min_mass, "lead": self.lead}
        return {**super().identity_parts(), **known}

    def ask(
        self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool], *, deadline: float
    ) -> Any:
        """See `HttpJudge`."""
        pairs = zip(prompts, responses, strict=True)
        found = self._next([self.question.ids(*pair) + self.lead for pair in pairs], deadline=deadline)
        return [self._score(each) for each, _ in found]

    def _behind(self, ids: list[int]) -> tuple[float, int]:
        ((logs, best),) = self._next([ids], deadline=time.monotonic() + self.seconds)
        return sum(math.exp(each) for each in logs.values()), best

    def _next(self, asked: Sequence[list[int]], *, deadline: float) -> list[tuple[dict[int, float], int]]:
        """Behind some ids: the verdict tokens' log-probabilities, and the likeliest token."""
        wanted = [*self.question.safe, *self.question.unsafe]
        body = self.body(
            prompt=list(asked), n=1, max_tokens=1, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, presence_penalty=0.0,
            frequency_penalty=0.0, repetition_penalty=1.0, logprobs=len(wanted), logprob_token_ids=wanted,
            return_tokens_as_token_ids=True, return_token_ids=True, ignore_eos=True, skip_special_tokens=False,
        )  # fmt: skip
        numbers = sum(map(len, asked)) + 64 * len(asked) * len(wanted)
        rows = self.rows(body, count=len(asked), numbers=numbers, key="choices", deadline=deadline)
        return [self._read(each, ids, wanted) for each, ids in zip(rows, asked, strict=True)]

    def _read(
        self, choice: Mapping[str, Any], ids: Sequence[int], wanted: Sequence[int]
    ) -> tuple[dict[int, float], int]:
        if choice.get("prompt_token_ids") != list(ids):
            raise self.no_verdict("answered another question than the one it was sent")
        said, logprobs = choice.get("token_ids"), choice.get("logprobs")
        if not isinstance(said, list) or len(said) != 1 or type(said[0]) is not int:
            raise self.no_verdict("gave no single token id")
        tops = logprobs.get("top_logprobs") if isinstance(logprobs, Mapping) else None
        if not isinstance(tops, list) or len(tops) != 1 or not isinstance(tops[0], Mapping):
            raise self.no_verdict("gave no log-probabilities")
        found = numbers_of([tops[0].get(f"token_id:{token}") for token in wanted])
        if found is None or not all(-LARGEST <= each <= ROUNDED for each in found):  # NaN is not
            raise self.no_verdict("gave no log-probability of some verdict word")
        if sum(map(math.exp, found)) > 1 + ROUNDED:  # such as nothing but zeros, which would be half safe, and pass
            raise self.no_verdict("gave probabilities of the verdict words that are more than 1 together")
        return dict(zip(wanted, found, strict=True)), said[0]

    def _score(self, logs: Mapping[int, float]) -> float:
        safe = sum(math.exp(logs[token]) for token in self.question.safe)
        unsafe = sum(math.exp(logs[token]) for token in self.question.unsafe)
        if not safe + unsafe >= self.min_mass:
            logger.warning("a verdict of %s is unreadable and counts as unsafe", self.name)
            return 1.0
        return unsafe / (safe + unsafe)
