"""What a loaded model, its tokenizer and a tensor are: hashes of what is in memory, not of the files it came from.

Adapters, quantisation, merged or noisy weights and a template that was changed in memory all show. Models of up to
``WHOLE`` bytes are hashed whole, of larger ones a fixed sample of every tensor is.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from critic_models.identity.plain import LABELS, SPECIAL, PerObject, brief, digest, is_known, label, owned, token
from critic_models.identity.plain import describe as describe_any

WHOLE = 256 * 2**20  # bytes of a model, up to which all of it is read: a quarter of a second
SAMPLE = 65_536  # numbers of a tensor that are read of a larger model
PROBE = 16  # numbers of a tensor that are looked at to see whether a known hash still holds
# Attributes that change while a model works, or that no forward reads.
PASSING = LABELS | {"max_seq_len_cached", "gradient_checkpointing", "loss_type", "kernel_config", "training"}
ADAPTERS = ("_active_adapter", "_disable_adapters", "_merged")  # private, and yet they decide
PATHS = frozenset({"_name_or_path", "transformers_version", "_attn_implementation", "_commit_hash"})
COMPILED = (torch.jit.ScriptModule, torch.fx.GraphModule)  # a library's classes around anybody's code
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
STATE = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_weights: PerObject[tuple[str, str]] = PerObject()
_vocabularies: PerObject[tuple[str, str]] = PerObject()


def describe(thing: Any) -> Any:
    """A model, tokenizer, configuration, tensor, dtype or device as plain JSON; None for anything else."""
    if isinstance(thing, nn.Module):
        return module(thing)
    if isinstance(thing, PreTrainedTokenizerBase):
        return tokenizer(thing)
    if isinstance(thing, PreTrainedConfig):
        return config(thing)
    if isinstance(thing, Tensor):
        return {"tensor": _hash([("", thing)], whole=True)}
    if isinstance(thing, torch.dtype | torch.device):
        return {"torch": str(thing)}
    return None


def forget() -> None:
    """The next description reads all weights and vocabularies again, instead of looking whether they have changed."""
    _weights.clear()
    _vocabularies.clear()


def module(model: nn.Module) -> dict[str, Any]:
    """A model: its classes with their numbers, configuration, weights, and whatever was hooked into it."""
    rows, patches = [], []
    for name, part in model.named_modules():
        attributes = dict(vars(part))
        plain = {key: value for key, value in attributes.items() if _is_setting(key) and _is_plain(value)}
        held = {key for key, value in attributes.items() if isinstance(value, FUNCTIONS) and not _is_method(part, key)}
        plain |= {key: label(attributes[key]) for key in held}
        rows.append([name, _kind(part), describe_any(plain)])
        patches += [[name, describe_any(each)] for each in _patches(part, attributes)]
    found: dict[str, Any] = {"class": _kind(model), "weights": weights(model), "layers": brief(rows)}
    found["dtype"] = sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters()})
    if isinstance(getattr(model, "config", None), PreTrainedConfig):
        found["config"] = brief(config(model.config))
    elif getattr(model, "config", None) is not None:
        found["config"] = brief(describe_any(model.config))
    if patches:
        found["patches"] = patches
    return found


def weights(model: nn.Module) -> Any:
    """The hash of a model's tensors; known ones are kept while versions, places and a probe of each stay the same."""
    tensors = list(_tensors(model))
    if missing := [name for name, tensor in tensors if isinstance(tensor, Tensor) and tensor.is_meta]:
        return {"unknown": f"weights that are not in memory, such as {missing[0]}", "process": token(model)}
    marks = digest([_mark(name, tensor) for name, tensor in tensors])
    known = _weights.find(model)
    if known is not None and known[0] == marks:
        return known[1]
    size = sum(each.numel() * each.element_size() for _, each in tensors if isinstance(each, Tensor))
    return _weights.keep(model, (marks, _hash(tensors, whole=size <= WHOLE)))[1]


def config(config: PreTrainedConfig) -> Any:
    """A configuration, quantisation included, without the names of where it came from."""
    return describe_any(_without_paths(config.to_dict()))


def tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A tokenizer: vocabulary and how text is cut, special tokens, chat template, and its settings."""
    settings = {
        key: value
        for key, value in vars(tokenizer).items()
        if _is_plain(value) and key not in LABELS | {"chat_template", "init_inputs", "init_kwargs", "files_loaded"}
        and key not in ("verbose", "deprecation_warnings", "_in_target_context_manager", "_processor_class")
        and not key.endswith("_file")
    }  # fmt: skip
    special = {key: describe_any(str(value)) for key, value in tokenizer.special_tokens_map.items()}
    found = {
        "class": _kind(tokenizer),
        "vocabulary": _vocabulary(tokenizer),
        "special_tokens": digest([special, sorted(tokenizer.all_special_ids)]),
        "chat_template": None if tokenizer.chat_template is None else digest(tokenizer.chat_template),
        "settings": digest(describe_any(settings)),
    }
    methods = [name for name, value in vars(tokenizer).items() if callable(value) and hasattr(type(tokenizer), name)]
    return {**found, "patches": [owned(getattr(tokenizer, name)) for name in methods]} if methods else found


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """Every token and merge, and how text is normalised and cut; known ones are kept while the rest stays the same."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    state = [str(len(tokenizer)), str(id(backend))]
    state += [repr(getattr(backend, name, None)) for name in STATE]
    marks, known = digest(state), _vocabularies.find(tokenizer)
    if known is not None and known[0] == marks:
        return known[1]
    hashed = hashlib.sha256()
    if hasattr(backend, "to_str"):
        text = backend.to_str()
        # Ahead of it stand truncation and padding, which every call may set anew.
        hashed.update(text[max(text.find('"added_tokens":'), 0) :].encode())
    else:
        hashed.update(digest(describe_any(dict(tokenizer.get_vocab()))).encode())
        inner: Any = getattr(tokenizer, "sp_model", None)
        hashed.update(inner.serialized_model_proto() if hasattr(inner, "serialized_model_proto") else b"")
        hashed.update(
            digest(describe_any(getattr(tokenizer, "bpe_ranks", None) and dict(tokenizer.bpe_ranks))).encode()
        )
    return _vocabularies.keep(tokenizer, (marks, hashed.hexdigest()[:32]))[1]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """All that is learnt or fixed: state (with what quantised layers add to it), and buffers that are not saved.

    A rotary table that grows with the sequences it has seen is left out; the one that it started from is not.
    """
    found: dict[str, Any] = dict(model.state_dict(keep_vars=True))
    for place, part in model.named_modules():
        grows = str(getattr(part, "rope_type", "")).startswith(("dynamic", "longrope"))
        for name, buffer in part.named_buffers(recurse=False):
            if not (grows and name == "inv_freq"):
                found.setdefault(f"{place}.{name}", buffer)
    yield from sorted(found.items())


def _mark(name: str, tensor: Any) -> Any:
    """What changes when a tensor is replaced or written to: its place, its version, and a probe of its numbers."""
    if not isinstance(tensor, Tensor):
        return [name, digest(_raw_description(tensor))]
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_quantized or tensor.layout is not torch.strided:
        return [name, id(tensor)]
    version = None if tensor.is_inference() else tensor._version
    return [name, str(tensor.dtype), list(tensor.shape), tensor.data_ptr(), version, _bytes(_some(tensor, PROBE)).hex()]


def _hash(tensors: list[tuple[str, Any]], *, whole: bool) -> str:
    hashed = hashlib.sha256()
    for name, tensor in tensors:
        if not isinstance(tensor, Tensor):
            hashed.update(f"{name}={digest(_raw_description(tensor))};".encode())
            continue
        for inner, raw in _plain_tensors(tensor):
            hashed.update(f"{name}{inner}:{raw.dtype}{tuple(raw.shape)};".encode())
            hashed.update(_bytes(raw.detach().reshape(-1) if whole else _some(raw, SAMPLE)))
    return hashed.hexdigest()[:32]


def _plain_tensors(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor, or the tensors that a quantised one is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, settings = tensor.__tensor_flatten__()
        yield digest(repr(settings)), torch.empty(0)
        for name in names:
            for inner, raw in _plain_tensors(getattr(tensor, name)):
                yield f".{name}{inner}", raw
    elif tensor.is_quantized:
        yield ".int", tensor.int_repr()
        by_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        yield ".scale", tensor.q_per_channel_scales() if by_channel else torch.tensor(tensor.q_scale())
        yield ".zero", tensor.q_per_channel_zero_points() if by_channel else torch.tensor(tensor.q_zero_point())
    else:
        yield "", tensor.to_dense() if tensor.layout is not torch.strided else tensor


def _some(tensor: Tensor, count: int) -> Tensor:
    """At most about so many numbers, from end to end; the step is odd, so that no column is left out."""
    flat = tensor.detach().reshape(-1)
    return flat if flat.numel() <= count else flat[:: max(flat.numel() // count, 1) | 1]


def _bytes(flat: Tensor) -> bytes:
    return flat.contiguous().cpu().view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _raw_description(thing: Any) -> Any:
    """What a state holds beside tensors: packed weights come as tuples of tensors and numbers."""
    if isinstance(thing, tuple | list):
        return [_raw_description(each) for each in thing]
    return {"tensor": _hash([("", thing)], whole=True)} if isinstance(thing, Tensor) else describe_any(thing)


def _kind(thing: Any) -> Any:
    known = is_known(type(thing)) and not isinstance(thing, COMPILED)
    return label(type(thing)) if known else owned(thing)


def _is_setting(name: str) -> bool:
    return name in ADAPTERS or not (name.startswith("_") or name in PASSING)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(each) for each in value.values())
    if isinstance(value, list | tuple | set):
        return all(_is_plain(each) for each in value)
    return value is None or type(value) in (bool, int, float, str)


def _patches(part: nn.Module, attributes: dict[str, Any]) -> list[Any]:
    """What was hooked into a layer, or put in the place of its methods, by somebody else than a library."""
    hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
    methods = [
        value
        for name, value in attributes.items()
        if isinstance(value, (*FUNCTIONS, functools.partial)) or (callable(value) and _is_method(part, name))
    ]
    return [each for each in [*hooks, *methods] if not _of_a_library(each)]


def _is_method(part: nn.Module, name: str) -> bool:
    return callable(getattr(type(part), name, None)) and not isinstance(getattr(type(part), name), type)


def _of_a_library(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    module = getattr(function, "__module__", None) or ""
    return module.partition(".")[0] in ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "ig_plugins")


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items() if key not in PATHS}
    return [_without_paths(each) for each in value] if isinstance(value, list | tuple) else value


SPECIAL.append(describe)
