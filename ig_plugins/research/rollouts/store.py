"""Rollouts on disk, one file a batch of prompts: a collection that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ig_plugins.errors import MismatchError
from ig_plugins.research.rollouts.sample import Rollout

MANIFEST = "rollouts.json"


class RolloutStore:
    """A folder of finished batches.

    Args:
        folder: Made if it is not there.
        fingerprint: What decides the rollouts: models, prompts, settings, as plain JSON. A folder that was begun with
            another one is refused.

    Raises:
        MismatchError: The folder holds rollouts of something else.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder, self.fingerprint = folder, digest(fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / MANIFEST
        if manifest.is_file():
            found = json.loads(manifest.read_text(encoding="utf-8")).get("fingerprint")
            if found != self.fingerprint:
                raise MismatchError(
                    f"{folder} holds rollouts of other models, prompts or settings ({found}, now {self.fingerprint}); "
                    "choose another folder, or delete it to begin anew"
                )
        else:
            _write(manifest, json.dumps({"fingerprint": self.fingerprint, **fingerprint}, indent=2).encode())

    def has(self, batch: int) -> bool:
        """Whether a batch is finished; a file that was cut off does not count."""
        try:
            return "tokens" in load_file(self._file(batch))
        except (FileNotFoundError, SafetensorError):
            return False

    def put(self, batch: int, rollouts: Sequence[Sequence[Rollout]]) -> None:
        """Saves a batch, whole or not at all."""
        each = [(prompt, rollout) for prompt, mine in enumerate(rollouts) for rollout in mine]
        tensors = {
            "prompt": torch.tensor([prompt for prompt, _ in each]),
            "lengths": torch.tensor([len(rollout.tokens) for _, rollout in each]),
            "tokens": torch.cat([rollout.tokens for _, rollout in each]),
            "features": torch.cat([rollout.features for _, rollout in each]).contiguous(),
            "costs": torch.cat([rollout.costs for _, rollout in each]).contiguous(),
            "reward": torch.tensor([rollout.reward for _, rollout in each]),
            "finished": torch.tensor([rollout.finished for _, rollout in each]),
        }
        partial = _partial(self._file(batch))
        save_file(tensors, partial)
        os.replace(partial, self._file(batch))

    def get(self, batch: int) -> dict[str, Tensor]:
        """A finished batch: tensors as saved by `put`."""
        return load_file(self._file(batch))

    def _file(self, batch: int) -> Path:
        return self.folder / f"batch-{batch:05d}.safetensors"


def digest(fingerprint: Mapping[str, Any]) -> str:
    """A short hash of plain JSON."""
    text = json.dumps(fingerprint, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _partial(path: Path) -> Path:
    """Where a file is written first; a name that nobody else writes to, since machines may share the folder."""
    return path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")


def _write(path: Path, data: bytes) -> None:
    partial = _partial(path)
    partial.write_bytes(data)
    os.replace(partial, path)
