"""What can be known about a model without loading it: frameworks ask when an object is made, which must stay quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from critic_models.hub import read_config
from critic_models.lengths import context_of
from ig_plugins import presets
from ig_plugins.errors import InferenceGuardError


def model_context(model: str, revision: str | None = None) -> int | None:
    """The longest sequence of a model in tokens, read from its config.json if that is on this machine.

    Args:
        model: A preset, a hub id or a local folder.
        revision: Of the policy, on the hub.

    Returns:
        None where the file is not there yet or does not say; never an error, never a download.
    """
    try:
        folder = _folder(model, revision)
        config = read_config(folder) if folder else {}
    except (InferenceGuardError, OSError, ValueError):
        return None
    found = context_of(config)
    inner = config.get("text_config") if isinstance(config.get("text_config"), dict) else None
    return min(found, _longrope_limit({**config, **(inner or {})}) or found) if found else None


def preset_max_tokens(model: str) -> int | None:
    """The longest answer that a preset allows; None where the model is no preset."""
    return presets.preset(model).search.max_new_tokens if presets.known(model) else None


def _longrope_limit(config: dict[str, Any]) -> int | None:
    """Where a model with longrope begins to compute otherwise: guards serve it up to there, see `TreeModel.context`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) not in ("longrope", "su"):
        return None
    found = config.get("original_max_position_embeddings", rope.get("original_max_position_embeddings"))
    return found if isinstance(found, int) else None


def _folder(model: str, revision: str | None) -> Path | None:
    source = model
    if presets.known(model):
        policy = presets.preset(model).policy
        source, revision = policy.source, revision or policy.revision
    folder = Path(presets.located(source)).expanduser()
    if folder.is_dir():
        return folder
    cached = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None
