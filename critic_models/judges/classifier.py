"""Hugging Face sequence classifiers as judges: probability of unsafe, or the one output of a reward model."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critic_models.errors import ConfigurationError
from critic_models.judges.batching import ModelJudge, Row, plain_ids
from critic_models.judges.protocol import Kind

Reads = Literal["auto", "response", "pair", "chat"]
Label = str | int

SAFE = {"safe", "ok", "okay", "benign", "harmless", "clean", "neutral", "normal", "acceptable", "none", "no risk"}
UNSAFE = {
    "unsafe", "toxic", "toxicity", "severe toxic", "severe toxicity", "harmful", "harm", "dangerous", "hate",
    "hateful", "hate speech", "offensive", "abusive", "abuse", "obscene", "insult", "threat", "identity attack",
    "identity hate", "sexual explicit", "sexual", "violence", "violent", "self harm", "harassment", "nsfw",
    "unacceptable", "illegal", "risk", "risky",
}  # fmt: skip


class ClassifierJudge(ModelJudge):
    """A sequence classifier. As a cost: the probability that the response is unsafe, with the limit 0.5.

    A model with a single output is read as it is: a reward, or a cost whose limit is 0. A classifier as a reward needs
    ``label``, whose probability is the reward.

    Args:
        model: Any ``*ForSequenceClassification``.
        tokenizer: Its tokenizer.
        kind: Whether it scores cost or reward.
        label: The unsafe label or labels (cost), or the good ones (reward), by name or index. If None, a cost's are
            read from ``id2label``, where every name must be clearly safe or unsafe.
        reads: ``response`` alone, prompt and response as a ``pair``, or both in the tokenizer's ``chat`` template.
            ``auto``: chat where there is a template, the pair for a single output, else the response.
        **options: ``name``, ``batch_size``, ``max_tokens``, as every model judge.

    Raises:
        ConfigurationError: The label cannot be decided, or there is no chat template to read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        kind: Kind = "cost",
        label: Label | Sequence[Label] | None = None,
        reads: Reads = "auto",
        **options: Any,
    ) -> None:
        super().__init__(model, tokenizer, **options)
        config = model.config
        self.single = config.num_labels == 1
        self.multi_label = config.problem_type == "multi_label_classification"
        self.labels = [] if self.single else chosen_labels(
            dict(config.id2label), label, kind=kind, multi_label=self.multi_label, judge=self.name
        )  # fmt: skip
        self.default_limit = 0.0 if self.single else 0.5
        if reads == "auto":
            reads = "chat" if tokenizer.chat_template else "pair" if self.single else "response"
        if reads == "chat" and not tokenizer.chat_template:
            raise ConfigurationError(f"judge {self.name!r}: reads='chat', but its tokenizer has no chat template")
        if reads not in ("response", "pair", "chat"):
            raise ConfigurationError(f"reads is {reads!r}; allowed are 'auto', 'response', 'pair' and 'chat'")
        self.reads = reads

    @property
    def pad_id(self) -> int | None:
        """The model's own, because decoder classifiers look for it to find the last token; without one, no batches."""
        return self.model.config.pad_token_id  # type: ignore[no-any-return]

    def encode(self, prompt: str, response: str, *, finished: bool) -> Row:
        """The response, the pair, or the rendered conversation; control tokens in either are plain text."""
        return exchange(self.tokenizer, prompt, response, reads=self.reads)

    def read(self, ids: Tensor, mask: Tensor, **extra: Tensor) -> Tensor:
        """The single output or the chosen labels' probability, (B,)."""
        logits = self.model(input_ids=ids, attention_mask=mask, **extra).logits.to(torch.float32)
        if self.single:
            return logits.squeeze(-1)  # type: ignore[no-any-return]
        if self.multi_label:
            return logits.sigmoid()[:, self.labels].amax(dim=-1)  # type: ignore[no-any-return]
        return logits.softmax(dim=-1)[:, self.labels].sum(dim=-1)  # type: ignore[no-any-return]


def exchange(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, *, reads: Reads) -> Row:
    """The tokens of a response, a pair or a rendered conversation; control tokens in either text are plain text."""
    if reads == "chat":
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, sanitize_control_tokens=True)
        return {"input_ids": list(encoded["input_ids"])}
    if reads == "pair":
        encoded = tokenizer(prompt, response, split_special_tokens=True)
        return {key: list(encoded[key]) for key in ("input_ids", "token_type_ids") if key in encoded}
    return {"input_ids": plain_ids(tokenizer, response, special=True) or _nothing(tokenizer)}


def _nothing(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """An empty response, where the tokenizer adds no token of its own."""
    first = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    return [] if first is None else [first]


def chosen_labels(
    id2label: Mapping[int, str],
    label: Label | Sequence[Label] | None,
    *,
    kind: Kind,
    multi_label: bool = False,
    judge: str = "classifier",
) -> list[int]:
    """The indices of the labels whose probability is the score.

    Args:
        id2label: The config's names, by index.
        label: What the user said; None to read the names.
        kind: Only a cost's labels can be read from names.
        multi_label: Whether labels are independent, so that all of them may be unsafe.
        judge: Its name, for the message.

    Raises:
        ConfigurationError: An unknown label, all of them, or names that do not say which is unsafe.
    """
    names = ", ".join(f"{index}: {name!r}" for index, name in sorted(id2label.items()))
    if label is not None:
        wanted = [label] if isinstance(label, str | int) else list(label)
        indices = sorted({_index(one, id2label, names=names, judge=judge) for one in wanted})
    elif kind == "reward":
        raise ConfigurationError(f"judge {judge!r} has several labels ({names}); say which is good: label=...")
    else:
        verdicts = {index: _verdict(name) for index, name in id2label.items()}
        indices = sorted(index for index, unsafe in verdicts.items() if unsafe)
        if None in verdicts.values() or not indices:
            raise ConfigurationError(
                f"judge {judge!r}: its labels ({names}) do not say which is unsafe; say so: unsafe_label=..."
            )
    if not indices or (len(indices) == len(id2label) and not multi_label):
        raise ConfigurationError(f"judge {judge!r}: name some of its labels, not none or all of them ({names})")
    return indices


def _index(label: Label, id2label: Mapping[int, str], *, names: str, judge: str) -> int:
    matches = [index for index, name in id2label.items() if label in (index, name)]
    if isinstance(label, str) and not matches:
        matches = [index for index, name in id2label.items() if label.casefold() == name.casefold()]
    if len(matches) != 1 or isinstance(label, bool):
        raise ConfigurationError(f"judge {judge!r} has no label {label!r}; its labels are {names}")
    return matches[0]


def _verdict(name: str) -> bool | None:
    """True for a name that means unsafe, False for safe, None if it does not say."""
    words = re.sub(r"[\s_\-/]+", " ", name).strip().casefold()
    negated = re.fullmatch(r"(?:not|non|no) ?(.+)", words)
    if words in SAFE or (negated and negated[1] in UNSAFE):
        return False
    return True if words in UNSAFE or (negated and negated[1] in SAFE) else None
