"""Classifiers of single tokens behind vLLM's ``/pooling``: an answer that was unsafe at any token stays so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, get_args

from transformers import PreTrainedTokenizerBase

from critic_models.errors import ConfigurationError
from critic_models.judges.remote.served import ServedJudge, numbers_of

Over = Literal["worst", "mean"]
Reads = Literal["response", "pair"]


class TokenClassifyJudge(ServedJudge):
    """A classifier of tokens: the worst probability of one label at any token of the response, with the limit 0.5.

    A model that reads from left to right never takes a score back: an answer that passed the limit at any token, inside
    a block too, is over it ever after. That is the paper's any-time z at the grain of tokens.

    Args:
        url: Of ``/pooling``.
        tokenizer: The classifier's own.
        label: The index of the unsafe label.
        reads: The ``response`` alone, or prompt and response as a ``pair``; only the response's tokens count.
        over: ``worst``, or ``mean``: the largest of the means over the tokens so far.
        **options: As `ServedJudge`.
    """

    def __init__(
        self, url: str, *, label: int = 1, reads: Reads = "response", over: Over = "worst", **options: Any
    ) -> None:
        super().__init__(url, **{"limit": 0.5, **options})
        if self.tokenizer is None:
            raise ConfigurationError(
                "a classifier of tokens needs tokenizer=, its own: which scores are the response's is known by that"
            )
        if not self.tokenizer.is_fast:
            raise ConfigurationError("the classifier's tokenizer must be a fast one, which says which tokens are whose")
        if reads not in get_args(Reads) or over not in get_args(Over):
            raise ConfigurationError(
                f"reads is {reads!r} and over {over!r}; allowed are 'response' and 'pair', 'worst' and 'mean'"
            )
        self._tokenizer: PreTrainedTokenizerBase = self.tokenizer
        self.label, self.reads, self.over = label, reads, over

    def identity_parts(self) -> dict[str, Any]:
        """See `HttpJudge`."""
        return {**super().identity_parts(), "label": self.label, "reads": self.reads, "over": self.over}

    def ask(
        self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool], *, deadline: float
    ) -> Any:
        """See `HttpJudge`."""
        sent = [self._encode(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]
        body = self.body(input=[ids for ids, _ in sent], task="token_classify", use_activation=True)
        tokens = sum(len(ids) for ids, _ in sent)
        rows = self.rows(body, count=len(sent), numbers=16 * tokens, key="data", deadline=deadline)
        return [self._score(each.get("data"), ids, mine) for each, (ids, mine) in zip(rows, sent, strict=True)]

    def _encode(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """Ids, and the places of the response's; all places where it is empty."""
        texts = (prompt, response) if self.reads == "pair" else (response,)
        encoded = self._tokenizer(*texts, split_special_tokens=True)
        ids, owner = list(encoded["input_ids"]), len(texts) - 1
        if any(encoded.get("token_type_ids", ())):
            raise ConfigurationError(
                "this tokenizer marks pairs by token types, which ids cannot carry; use reads=response"
            )
        if not ids:
            raise self.no_verdict("was given nothing to read")
        return ids, [at for at, whose in enumerate(encoded.sequence_ids(0)) if whose == owner] or list(range(len(ids)))

    def _score(self, data: Any, ids: Sequence[int], mine: Sequence[int]) -> float:
        if not isinstance(data, list) or len(data) != len(ids):
            count = len(data) if isinstance(data, list) else 0
            raise self.no_verdict(f"gave the scores of {count} tokens where {len(ids)} were sent")
        rows = [numbers_of(data[at]) for at in mine]
        if any(row is None or self.label >= len(row) for row in rows):
            raise self.no_verdict(f"has no label {self.label} at some token (see ?label=)")
        scores = [row[self.label] for row in rows if row is not None]
        if not all(0 <= score <= 1 for score in scores):
            raise self.no_verdict("gave no probability at some token")
        if self.over == "worst":
            return max(scores)
        return max(total / count for count, total in enumerate(accumulate(scores), start=1))
