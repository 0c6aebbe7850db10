"""What every judge that is a transformers model does alike: encode, check that it fits, batch, pad right, check."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critic_models.errors import ConfigurationError, JudgeError
from critic_models.judges.protocol import check_pairs, check_scores, judge_errors
from critic_models.lengths import context_of
from critic_models.safety.budget import Accounting

Row = dict[str, list[int]]  # "input_ids", and "token_type_ids" where the tokenizer makes them
UNLIMITED = 1_000_000  # tokenizers say a huge model_max_length when they know none


class ModelJudge(ABC):
    """A judge made of a model and its tokenizer.

    Args:
        model: Any transformers model (or ScoreModel), in eval mode on its device.
        tokenizer: The model's own.
        name: Shown in results.
        batch_size: Responses a forward.
        max_tokens: The longest input; the model's context if None.
    """

    default_accounting: Accounting = "worst"
    default_limit = 0.0
    default_discount = 1.0

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        batch_size: int = 16,
        max_tokens: int | None = None,
    ) -> None:
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}; give at least 1")
        context = readable(model, tokenizer)
        if max_tokens is not None and not (type(max_tokens) is int and 0 < max_tokens <= (context or max_tokens)):
            raise ConfigurationError(f"max_tokens is {max_tokens}; this judge reads 1 to {context} tokens")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name or model.name_or_path or type(model).__name__
        self.batch_size = batch_size
        self.max_tokens = max_tokens or context

    @abstractmethod
    def encode(self, prompt: str, response: str, *, finished: bool) -> Row:
        """The tokens that the model reads for one pair."""

    @abstractmethod
    def read(self, ids: Tensor, mask: Tensor, **extra: Tensor) -> Tensor:
        """Scores (B,) of right-padded rows (B, T)."""

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], *, finished: Sequence[bool] | None = None
    ) -> list[float]:
        """See ``Judge.score``. Input that does not fit the model's context is an error, never cut off."""
        check_pairs(prompts, responses, judge=self.name)
        if finished is not None and len(finished) != len(responses):
            raise JudgeError(f"judge {self.name!r} was given {len(responses)} responses and {len(finished)} flags")
        ended = finished or [False] * len(responses)
        with judge_errors(self.name):
            triples = zip(prompts, responses, ended, strict=True)
            rows = [self._fit(self.encode(prompt, text, finished=end)) for prompt, text, end in triples]
            scores = [0.0] * len(rows)
            for chosen, batch in self._batches(rows):
                with torch.inference_mode():
                    read = self.read(batch["input_ids"], batch.pop("mask"), **_without_ids(batch))
                for index, value in zip(chosen, read.float().tolist(), strict=True):
                    scores[index] = value
        return check_scores(scores, count=len(responses), judge=self.name)

    def _fit(self, row: Row) -> Row:
        count = len(row["input_ids"])
        if count == 0:
            raise JudgeError(f"judge {self.name!r} was given nothing to read: prompt and response have no tokens")
        if self.max_tokens is not None and count > self.max_tokens:
            raise JudgeError(
                f"prompt and response take {count} tokens, judge {self.name!r} reads {self.max_tokens}. Nothing is cut "
                "off, since what is not read is not judged: shorten the prompt, lower max_tokens of the answer, or use "
                "a judge with a longer context"
            )
        return row

    def _batches(self, rows: list[Row]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Batches of similar length, with the places that their rows came from."""
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
        size = self.batch_size if self.pad_id is not None else 1
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield chosen, pad_right([rows[index] for index in chosen], pad=self.pad_id or 0, device=self.model.device)

    @property
    def pad_id(self) -> int | None:
        """What fills the right side; masked, so that any token would do. None: one row at a time, unpadded."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad  # type: ignore[no-any-return]


def pad_right(rows: Sequence[Row], *, pad: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Rows of ragged length as (B, T) tensors: ``input_ids``, ``mask`` (1 at tokens), and what else the rows have."""
    width = max(len(row["input_ids"]) for row in rows)

    def stack(values: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([value + [fill] * (width - len(value)) for value in values], device=device)

    batch = {key: stack([row[key] for row in rows], pad if key == "input_ids" else 0) for key in rows[0]}
    batch["mask"] = stack([[1] * len(row["input_ids"]) for row in rows], 0)
    return batch


def readable(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that model and tokenizer agree to read; None if neither says."""
    limits = [context_of(model.config.get_text_config()), tokenizer.model_max_length]
    known = [int(limit) for limit in limits if limit and 0 < limit < UNLIMITED]
    return min(known) if known else None


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    """Tokens of a text in which control tokens are just characters; ``special`` adds the tokenizer's own BOS or EOS."""
    return list(tokenizer(text, add_special_tokens=special, split_special_tokens=True)["input_ids"])


def _without_ids(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in batch.items() if key != "input_ids"}
