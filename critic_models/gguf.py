"""GGUF files as checkpoints: dequantised once, and kept as safetensors among Hugging Face's cached assets."""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import logging
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from filelock import FileLock
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError

from critic_models.errors import ModelLoadError

logger = logging.getLogger(__name__)

MAGIC = b"GGUF"
NEEDED = ("gguf", "accelerate")  # what transformers reads GGUF with
ON_THE_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):(?P<file>.+\.gguf)", re.IGNORECASE)
PIECE = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
END_OF_TURN = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")  # end an answer besides the eos token


def find_gguf(path_or_id: str | Path, *, revision: str | None = None) -> Path | None:
    """The GGUF file that a name stands for, downloaded once if it is on the hub; None if it stands for none.

    Args:
        path_or_id: A file, a folder that holds one and no safetensors, or ``org/name:file.gguf``.
        revision: Branch, tag or commit on the hub.

    Raises:
        ModelLoadError: There is no such file, there are several, or it is one piece of several.
    """
    path, name = Path(path_or_id).expanduser(), str(path_or_id)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                if not name.lower().endswith(".gguf"):
                    return None
                raise ModelLoadError(f"{name} does not begin as a GGUF file does. Download it again")
        return _whole(path)
    if path.is_dir():
        return _only_one(path)
    if there := ON_THE_HUB.fullmatch(name):
        return _whole(_downloaded(there["repository"], there["file"], revision))
    if name.lower().endswith(".gguf"):
        raise ModelLoadError(f"there is no file {name}. Give a GGUF file's path, or 'org/name:file.gguf' on the hub")
    return None


def converted(file: Path) -> Path:
    """A checkpoint's folder with the weights, tokenizer and chat template of a GGUF file.

    Dequantising takes far longer than loading, so it is done once for a file's content and a version of transformers,
    under ``HF_HOME/assets/inferenceguard/gguf``. Processes that come at once wait for the first. Where nothing can be
    written there, it is done anew in a temporary folder.

    Raises:
        ModelLoadError: The file is damaged, or of an architecture that transformers cannot read.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelLoadError(
            f"{file.name}: a GGUF file needs {' and '.join(missing)}: pip install 'inferenceguard[gguf]'"
        )
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256") if hasattr(hashlib, "file_digest") else _digest(content)
    key = f"{digest.hexdigest()[:32]}-transformers-{transformers.__version__}"
    try:
        return _kept(file, huggingface_hub.cached_assets_path("inferenceguard", namespace="gguf", subfolder=key))
    except (OSError, ValueError, SafetensorError) as error:
        folder = Path(tempfile.mkdtemp(prefix="inferenceguard-gguf-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        logger.warning(
            "The dequantised %s cannot be kept (%s: %s), so every process dequantises it again. "
            "Let HF_HOME or HF_ASSETS_CACHE name a place that can be written to",
            file.name, type(error).__name__, error,
        )  # fmt: skip
        _convert(file, folder)
        return folder


def _kept(file: Path, home: Path) -> Path:
    """The converted folder in its home; made elsewhere and then renamed, so that it is whole or absent."""
    final = home / "model"
    if final.is_dir():
        return final
    with FileLock(home / ".lock"):
        if final.is_dir():
            return final
        for abandoned in home.glob("partial-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        partial = home / f"partial-{uuid.uuid4().hex}"
        partial.mkdir()
        try:
            _convert(file, partial)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return final


def _convert(file: Path, folder: Path) -> None:
    """Writes config.json, safetensors, tokenizer and chat template of a GGUF file."""
    metadata = _metadata(file)
    alone = folder / "source.gguf"  # so that transformers finds nothing else beside it
    alone.symlink_to(file.resolve())
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=alone.name, dtype="auto", output_loading_info=True, **_dequantised(alone.name)
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=alone.name)
    except Exception as error:
        raise ModelLoadError(
            f"{file}: transformers {transformers.__version__} cannot read this GGUF file of architecture "
            f"{metadata['architecture']!r} ({type(error).__name__}: {error}). Update transformers, or use the model's "
            "safetensors checkpoint"
        ) from error
    finally:
        alone.unlink()
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise ModelLoadError(f"{file} lacks {lacking[0]}, and {len(lacking)} weights in all. Download it again")
    _describe(model, metadata["ends"])
    with torch.device("meta"):
        plain = type(model)(model.config)  # the loaded one holds on to GGUF and is not saved by transformers
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, state_dict=model.state_dict())
    tokenizer.save_pretrained(folder)


def _describe(model: Any, ends: list[int]) -> None:
    """Puts into the configurations what a checkpoint's say."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    eos = model.generation_config.eos_token_id
    known = eos if isinstance(eos, list) else [] if eos is None else [eos]
    more = [token for token in ends if token not in known]
    if more:
        model.generation_config.eos_token_id = [*known, *more]


def _metadata(file: Path) -> dict[str, Any]:
    """The architecture and the tokens that end a turn; reading them shows whether the file is whole."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        fields = {name: reader.fields[name] for name in ("general.architecture", *END_OF_TURN) if name in reader.fields}
        found = {name: field.contents() for name, field in fields.items()}
        return {"architecture": found["general.architecture"], "ends": [found[n] for n in END_OF_TURN if n in found]}
    except Exception as error:
        raise ModelLoadError(
            f"{file} is truncated or corrupt ({type(error).__name__}: {error}). Download it again and compare its size"
        ) from error


def _dequantised(name: str) -> dict[str, Any]:
    """Tells versions of transformers that can leave weights in blocks not to."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(gguf_file=name, dequantize=True)}


def _only_one(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.gguf"))
    if not found or any(folder.glob("*.safetensors")):
        return None
    if len(found) > 1 and not all(PIECE.search(path.name) for path in found):
        names = ", ".join(path.name for path in found)
        raise ModelLoadError(f"{folder} holds {len(found)} GGUF files ({names}). Give the path of one of them")
    return _whole(found[0])


def _whole(file: Path) -> Path:
    if PIECE.search(file.name):
        raise ModelLoadError(
            f"{file} is one piece of a model. Join the pieces first: llama-gguf-split --merge {file.name} whole.gguf"
        )
    return file


def _downloaded(repository: str, name: str, revision: str | None) -> Path:
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelLoadError(
            f"{name!r} of {repository!r} is not on this machine and cannot be downloaded ({type(error).__name__}). "
            "Check the spelling, the network, and `hf auth login` for gated models"
        ) from error


def _digest(content: Any) -> Any:
    """Python 3.10's way to ``hashlib.file_digest``."""
    digest = hashlib.sha256()
    while chunk := content.read(1 << 20):
        digest.update(chunk)
    return digest
