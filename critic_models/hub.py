"""Where checkpoints come from: a local folder or a hub id, safetensors only, checked before anything is built."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from critic_models.errors import ModelLoadError
from critic_models.gguf import converted, find_gguf

WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]
ADAPTER = "adapter_config.json"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HARMLESS = re.compile(r"rotary_emb\.|\.attn\.(masked_)?bias$|position_ids$|^normalizer\.")  # nothing learned in them
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONVERT = (
    "Pickles can run code when read, so they are refused. Convert the checkpoint to safetensors first: on the hub "
    "with the Space 'safetensors/convert' (then load revision='refs/pr/N'), or in a place that you trust with "
    "torch.load(..., weights_only=True) and safetensors.torch.save_file(...)"
)


def local_folder(path_or_id: str | Path, *, revision: str | None = None) -> Path:
    """The folder with the checkpoint's files, downloaded once through huggingface_hub if it is a hub id.

    Args:
        path_or_id: A folder on disk, a hub id such as ``PKU-Alignment/beaver-7b-unified-cost``, or a GGUF file: its
            path, a folder with one, or ``org/name:file.gguf``.
        revision: Branch, tag or commit on the hub.

    Raises:
        ModelLoadError: Neither a folder nor a repository that can be reached, or a GGUF file that cannot be read.
    """
    gguf = find_gguf(path_or_id, revision=revision)
    if gguf is not None:
        return converted(gguf)
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return folder
    name = str(path_or_id)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelLoadError(
            f"{name} is not a folder. Give the folder that holds config.json, a GGUF file, or a hub id"
        )
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelLoadError(
            f"{name!r} is neither a local folder nor a hub checkpoint that can be reached "
            f"({type(error).__name__}). Check the spelling, the network, and `hf auth login` for gated models"
        ) from error


def find_checkpoint(path_or_id: str | Path, *, revision: str | None = None) -> None:
    """Refuses a name that stands for no checkpoint; at most a config.json is downloaded, and no weights are read.

    Raises:
        ModelLoadError: As `local_folder` and `read_config`.
    """
    if find_gguf(path_or_id, revision=revision) is not None:
        return
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        read_config(folder, ADAPTER if (folder / ADAPTER).is_file() else "config.json")
    elif folder.exists() or not HUB_ID.fullmatch(str(path_or_id)):
        local_folder(path_or_id, revision=revision)
    else:
        try:
            huggingface_hub.hf_hub_download(str(path_or_id), "config.json", revision=revision)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError):
            local_folder(path_or_id, revision=revision)


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The checkpoint's JSON configuration.

    Raises:
        ModelLoadError: The file is missing or is not a JSON object.
    """
    path = folder / name
    if not path.is_file():
        raise ModelLoadError(f"{folder} has no {name}, so it is not a model folder. Give the folder that holds {name}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelLoadError(f"{path} is not valid JSON ({error}). Download or save the checkpoint again") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{path} holds {type(config).__name__}, not a JSON object. Save the checkpoint again")
    return config


def safetensors_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, in one piece or in shards; each is there and opens.

    Raises:
        ModelLoadError: Only pickles, no weights at all, a shard is missing, or a file is truncated or corrupt.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_config(folder, index.name).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelLoadError(f"{index} names no weights. Download or save the checkpoint again")
        files = [folder / name for name in sorted(set(shards.values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ModelLoadError(f"{folder} has only pickled weights ({', '.join(pickles)}). {CONVERT}")
        raise ModelLoadError(f"{folder} has no *.safetensors file, so there are no weights to load")
    for path in files:
        if not path.is_file():
            raise ModelLoadError(f"{folder} lacks the shard {path.name} that its index names. Download it again")
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ModelLoadError(
                f"{path} is truncated or corrupt ({error}). Download or save the checkpoint again"
            ) from error
    return files


def read_tensors(folder: Path, *, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names start with a prefix, on the CPU.

    Raises:
        ModelLoadError: As ``safetensors_files``.
    """
    tensors = {}
    for path in safetensors_files(folder):
        with safe_open(path, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)})  # noqa: SIM118
    return tensors


def refuse_nan(model: nn.Module, *, source: str) -> None:
    """Refuses a model with a NaN or infinite weight; packed weights of quantised models are not looked into.

    Raises:
        ModelLoadError: Names the first such weight.
    """
    for name, weight in model.named_parameters():
        if weight.dtype in FLOATS and not weight.is_meta and not bool(torch.isfinite(weight).all()):
            raise ModelLoadError(f"{source}: {name} holds NaN or infinity. Download or train the checkpoint again")


def load_weights(
    loader: Callable[..., Any],
    folder: Path,
    *,
    source: str,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    strict: bool = False,
    **load_kwargs: Any,
) -> Any:
    """Runs a ``from_pretrained`` of transformers and refuses whatever it would only have warned about.

    Args:
        loader: Such as ``AutoModelForSequenceClassification.from_pretrained``.
        folder: Where the files are.
        source: The name that the user gave, for messages.
        device: Where to put the model; leave it out with ``device_map``.
        dtype: Precision; the checkpoint's own if None.
        strict: Whether weights that the model has no place for are refused as well.
        **load_kwargs: Passed on: ``device_map``, ``quantization_config``, ``attn_implementation``, ...

    Returns:
        The model, in eval mode.

    Raises:
        ModelLoadError: What is wrong with the checkpoint, and what to do next.
    """
    safetensors_files(folder)
    try:
        model, report = loader(
            folder,
            dtype=dtype or "auto",
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, all at once
            output_loading_info=True,
            **load_kwargs,
        )
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"{source}: transformers cannot load this checkpoint ({type(error).__name__}: {error}). "
            "Check config.json's model_type and sizes against the weights"
        ) from error
    _refuse_gaps(report, source=source, strict=strict)
    refuse_nan(model, source=source)
    if device is not None and "device_map" not in load_kwargs:
        model.to(device)
    return model.eval()


def _refuse_gaps(report: dict[str, Any], *, source: str, strict: bool) -> None:
    """Refuses weights that are missing, misshapen, or unexpected: they would silently change every score."""
    missing = sorted(name for name in report["missing_keys"] if not HARMLESS.search(name))
    if missing:
        raise ModelLoadError(
            f"{source}: the checkpoint lacks {_some(missing)}. It is damaged, or it is a model of another kind than "
            "config.json's architectures say; download it again or name another checkpoint"
        )
    shapes = [
        f"{name} is {tuple(found)}, the config asks for {tuple(wanted)}"
        for name, found, wanted in sorted(report["mismatched_keys"])
        if not HARMLESS.search(name)
    ]
    if shapes:
        raise ModelLoadError(f"{source}: wrong shapes: {_some(shapes)}. config.json belongs to another checkpoint")
    unexpected = sorted(name for name in report["unexpected_keys"] if not HARMLESS.search(name))
    if strict and unexpected:
        raise ModelLoadError(
            f"{source}: the config has no place for {_some(unexpected)}. Dropping weights would change the scores; "
            "correct config.json (score_bias, num_hidden_layers, ...) or load another checkpoint"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
