"""What judges that vLLM serves have in common: they are sent token ids, and every part of a reply must be in its place.

Ids, because a text that is tokenised there may hold control tokens, and an answer could then end its own turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from critic_models.errors import JudgeError
from critic_models.hub import local_folder
from critic_models.judges.remote.http import REPLY_BYTES, HttpJudge
from critic_models.judges.vocabularies import read_tokenizer

NUMBER_BYTES = 32  # that a number in JSON takes at most


class ServedJudge(HttpJudge):
    """A judge that vLLM serves.

    Args:
        url: Of what it is asked.
        model: As vLLM names it; empty for the only one.
        tokenizer: The model's own: a folder, a hub id, or one that is loaded.
        **options: As `HttpJudge`.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(url, **options)
        self.model, self.tokenizer = model, loaded(tokenizer)

    def identity_parts(self) -> dict[str, Any]:
        """See `HttpJudge`."""
        own = {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
        return {**super().identity_parts(), "model": self.model, **own}

    def body(self, **fields: Any) -> dict[str, Any]:
        """A request; vLLM serves one model or wants its name."""
        return {**fields, **({"model": self.model} if self.model else {})}

    def rows(self, body: Mapping[str, Any], *, count: int, numbers: int, key: str, deadline: float) -> list[Any]:
        """The parts of a reply, one for each text that was sent.

        Args:
            body: The request.
            count: Texts.
            numbers: That the reply may hold in all.
            key: Where it holds them.
            deadline: In `time.monotonic` seconds.

        Raises:
            JudgeError: There are more or fewer, or they stand in another order.
        """
        reply = self.post(dict(body), deadline=deadline, most_bytes=REPLY_BYTES + NUMBER_BYTES * numbers)
        found = reply.get(key) if isinstance(reply, Mapping) else None
        if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
            raise self.no_verdict(f"gave no list of {key}")
        if [each.get("index") for each in found] != list(range(count)):
            raise self.no_verdict(f"gave {len(found)} parts for {count} texts, or in another order")
        return found

    def no_verdict(self, said: str) -> JudgeError:
        """An error that names this judge."""
        return JudgeError(f"judge {self.name!r} {said}; no text is released without a verdict")


def loaded(tokenizer: PreTrainedTokenizerBase | str | Path | None) -> PreTrainedTokenizerBase | None:
    """A tokenizer by its name.

    Raises:
        ModelLoadError: There is none.
    """
    if tokenizer is None or isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer
    return read_tokenizer(local_folder(tokenizer), source=str(tokenizer))


def numbers_of(values: Any) -> list[float] | None:
    """A list of numbers, or None if it is none. Whether they are finite is seen later, by `check_scores`."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        return None
    return None if any(type(each) not in (int, float) for each in values) else cast("list[float]", list(values))
