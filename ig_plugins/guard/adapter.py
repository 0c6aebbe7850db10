"""PEFT adapters as policies: the base model that they name, with their weights merged in or applied."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from critic_models.hub import ADAPTER, load_weights, local_folder, read_config, refuse_nan, safetensors_files
from ig_plugins.errors import ModelLoadError

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a model."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def load_adapter(
    folder: Path,
    *,
    source: str,
    device: Any = None,
    dtype: Any = None,
    merge_adapter: bool | None = None,
    **options: Any,
) -> tuple[Any, Path]:
    """The adapted model, and the folder with its tokenizer.

    Args:
        folder: With adapter_config.json and adapter_model.safetensors.
        source: The name that the user gave, for messages.
        device: Where to put the model.
        dtype: Of the base's weights.
        merge_adapter: Whether to add the adapter's weights to the base's; by default where these are not quantised,
            because merging would round them once more. Both give the same answers up to rounding.
        **options: Passed on to transformers with the base.

    Raises:
        ModelLoadError: The base or the adapter cannot be loaded, or the adapter does not fit.
    """
    if importlib.util.find_spec("peft") is None:
        raise ModelLoadError(f"{source} is a PEFT adapter, which needs peft: pip install 'inferenceguard[peft]'")
    named = read_config(folder, ADAPTER)
    base, revision = named.get("base_model_name_or_path"), named.get("revision")
    if not base:
        raise ModelLoadError(f"{source}: {ADAPTER} names no base_model_name_or_path. Write the base model's name there")
    safetensors_files(folder)
    try:
        at = local_folder(base, revision=revision)
        read_config(at)
    except ModelLoadError as error:
        raise ModelLoadError(
            f"{source} adapts {base!r}, which cannot be loaded: {error}. "
            f"Correct base_model_name_or_path in {folder / ADAPTER} if the base lies elsewhere"
        ) from error
    model = load_weights(
        AutoModelForCausalLM.from_pretrained, at, source=str(base), device=device, dtype=dtype, **options
    )
    model = _adapted(model, folder, source=source, base=str(base), merge=merge_adapter)
    refuse_nan(model, source=source)
    own = any((folder / name).is_file() for name in TOKENIZER)
    return model.eval(), folder if own else at


def _adapted(model: Any, folder: Path, *, source: str, base: str, merge: bool | None) -> Any:
    from peft import PeftModel

    quantised = bool(getattr(model, "is_quantized", False))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            adapted = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:
        raise ModelLoadError(
            f"{source}: this adapter does not fit {base!r} ({type(error).__name__}: {error}). "
            "Name the base that it was trained on in adapter_config.json"
        ) from error
    if adapted.active_peft_config.is_prompt_learning:
        kind = adapted.active_peft_config.peft_type.value
        raise ModelLoadError(
            f"{source} is an adapter of type {kind}, which lives in the prompt and not in the layers; "
            "a guard takes those that change layers, such as LoRA"
        )
    if merge is None:
        merge = not quantised
    return adapted.merge_and_unload() if merge else adapted.get_base_model()
