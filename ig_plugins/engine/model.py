"""A Hugging Face model that follows a token tree."""

from collections.abc import Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel

from ig_plugins.engine.body import Body
from ig_plugins.engine.masked import MaskedPath
from ig_plugins.engine.path import Path, Sizes
from ig_plugins.engine.session import TreeSession
from ig_plugins.errors import PromptError

PathName = Literal["segments", "masked", "portable"]


class TreeModel:
    """A model, and the way it can follow a tree. Made by ``attach``."""

    def __init__(self, body: Body, path: type[Path]) -> None:
        self.body = body
        self._path = path

    @classmethod
    def attach(
        cls, model: PreTrainedModel, *, path: Literal["auto", "segments", "masked", "portable"] = "auto"
    ) -> "TreeModel":
        model.eval()
        return cls(Body(model), MaskedPath)

    @property
    def path(self) -> str:
        return self._path.name

    @property
    def hidden_size(self) -> int:
        return int(self.body.body.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self.body.body.config.vocab_size)

    @property
    def context(self) -> int | None:
        return getattr(self.body.body.config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        return self.body.device

    @property
    def dtype(self) -> torch.dtype:
        return self.body.model.dtype

    def plant(self, prompts: Sequence[Sequence[int]], *, lanes: int, block: int, max_new: int) -> TreeSession:
        if not prompts:
            raise PromptError("There is no prompt; give at least one.")
        return TreeSession(self, self._path(self.body, Sizes(lanes, block, max_new)), prompts, max_new=max_new)
