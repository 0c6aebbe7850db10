"""Sequence classifiers behind vLLM's ``/classify``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from critic_models.errors import ConfigurationError
from critic_models.judges.classifier import Reads, exchange
from critic_models.judges.remote.served import ServedJudge, numbers_of


class ClassifyJudge(ServedJudge):
    """A sequence classifier behind vLLM's ``/classify``: the probability of one label, with the limit 0.5.

    Args:
        url: Of ``/classify``.
        label: The index of the unsafe label (cost) or the good one (reward).
        reads: The ``response`` alone, prompt and response as a ``pair``, or both in the tokenizer's ``chat`` template.
        raw: The label's output as it is, without softmax or sigmoid: what a reward model with a single output gives.
        **options: As `ServedJudge`. Without a tokenizer texts are sent, a pair as two lines, and control tokens in them
            are control tokens there.
    """

    def __init__(
        self, url: str, *, label: int = 1, reads: Reads = "response", raw: bool = False, **options: Any
    ) -> None:
        super().__init__(url, **{"limit": 0.0 if raw else 0.5, **options})
        if reads not in ("response", "pair", "chat"):
            raise ConfigurationError(f"reads is {reads!r}; allowed are 'response', 'pair' and 'chat'")
        if reads == "chat" and (self.tokenizer is None or not self.tokenizer.chat_template):
            raise ConfigurationError("reads='chat' needs tokenizer=, the classifier's own, with a chat template")
        self.label, self.reads, self.raw = label, reads, raw

    def identity_parts(self) -> dict[str, Any]:
        """See `HttpJudge`."""
        sent = "texts" if self.tokenizer is None else "ids"
        return {**super().identity_parts(), "label": self.label, "reads": self.reads, "raw": self.raw, "sent": sent}

    def ask(
        self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool], *, deadline: float
    ) -> Any:
        """See `HttpJudge`."""
        sent = [self._sent(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]
        body = self.body(input=sent, use_activation=not self.raw)
        rows = self.rows(body, count=len(sent), numbers=0, key="data", deadline=deadline)
        return [self._score(each.get("probs")) for each in rows]

    def _sent(self, prompt: str, response: str) -> str | list[int]:
        if self.tokenizer is not None:
            return plain_row(self.tokenizer, prompt, response, reads=self.reads)
        return response if self.reads == "response" else f"{prompt}\n{response}"

    def _score(self, probs: Any) -> float:
        found = numbers_of(probs)
        if found is None or self.label >= len(found):
            raise self.no_verdict(f"gave {len(found or ())} classes, and the label is {self.label} (see ?label=)")
        if not self.raw and not 0 <= found[self.label] <= 1:
            raise self.no_verdict("gave no probability")
        return found[self.label]


def plain_row(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, *, reads: Reads) -> list[int]:
    """What a classifier reads as ids alone.

    Raises:
        ConfigurationError: Its pairs have token types, which ids cannot carry.
    """
    row = exchange(tokenizer, prompt, response, reads=reads)
    if any(row.get("token_type_ids", ())):
        raise ConfigurationError(
            "this tokenizer marks the second text of a pair by token types, which vLLM is not sent with ids; use "
            "reads=response, or judge in this process"
        )
    return row["input_ids"]
