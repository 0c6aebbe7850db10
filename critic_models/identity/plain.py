"""What a part *is*, as plain JSON: its weights, tokenizer, settings. Names of display play no part in it.

Two parts with the same description behave alike. What nobody can look into, such as a Python function, is what its
owner says with a ``version``; without one it is known by a random token of this very object in this very process, so
that nothing about it can be certified, or shared with another process.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import math
import os
import types
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Libraries, whose classes and functions are known by name: their code and their fields decide what they do.
LIBRARIES = frozenset(
    {"torch", "torchao", "transformers", "tokenizers", "accelerate", "peft", "bitsandbytes", "sentencepiece",
     "pydantic", "langchain_core", "llama_index", "langchain_inferenceguard", "critic_models", "ig_plugins",
     "builtins", "collections", "operator", "math"}
)  # fmt: skip
LABELS = frozenset({"name", "name_or_path", "source"})  # attributes that only say what a thing is called
UNKNOWN = "unknown"
SPECIAL: list[Callable[[Any], Any]] = []  # who knows more of some kinds of things: see `weights`
RESERVED = {UNKNOWN, "bytes", "class", "dict", "enum", "float", "method", "named", "object", "path", "set", "tensor"}


class PerObject(Generic[T]):
    """A value for each object, for as long as it lives; objects are told apart by ``is``, never by ``==``."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Callable[[], object], T]] = {}

    def find(self, thing: object) -> T | None:
        """The object's value, if it has one."""
        holder, value = self._kept.get(id(thing), (None, None))
        return value if holder is not None and holder() is thing else None

    def keep(self, thing: object, value: T) -> T:
        """Gives an object a value, instead of the one that it had."""
        key = id(thing)
        try:
            holder: Callable[[], object] = weakref.ref(thing, lambda dead: self._drop(key, dead))
        except TypeError:  # it knows no weak references, and must live on: its id may never be another's
            holder = functools.partial(_itself, thing)
        self._kept[key] = (holder, value)
        return value

    def clear(self) -> None:
        """Forgets all values."""
        self._kept.clear()

    def _drop(self, key: int, dead: object) -> None:
        if self._kept.get(key, (None,))[0] is dead:
            del self._kept[key]


def _itself(thing: object) -> object:
    return thing


_tokens: PerObject[str] = PerObject()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_tokens.clear)


def token(thing: object) -> str:
    """A random token of this object in this process."""
    return _tokens.find(thing) or _tokens.keep(thing, uuid.uuid4().hex)


def label(thing: Any) -> str:
    """The full name of a class or function, or of an object's class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(named, '__module__', None) or '?'}.{getattr(named, '__qualname__', '?')}"


def is_known(thing: Any) -> bool:
    """Whether a class or function belongs to a library, and is not made anew for each caller."""
    module, name = getattr(thing, "__module__", None) or "", getattr(thing, "__qualname__", "<")
    return module.partition(".")[0] in LIBRARIES and "<" not in name


def describe(thing: Any) -> Any:
    """What a thing is, as plain JSON; see the module.

    Args:
        thing: Anything that takes part in an answer.
    """
    if thing is None or type(thing) in (bool, int, str):
        return thing
    if type(thing) is float:
        return thing if math.isfinite(thing) else {"float": repr(thing)}
    if isinstance(thing, bytes | bytearray):
        return {"bytes": hashlib.sha256(thing).hexdigest()}
    if isinstance(thing, enum.Enum) and is_known(type(thing)):
        return {"enum": f"{label(type(thing))}.{thing.name}"}
    if isinstance(thing, Path):
        return {"path": str(thing)}
    if type(thing) in (list, tuple):
        return [describe(each) for each in thing]
    if type(thing) in (set, frozenset):
        return {"set": sorted((describe(each) for each in thing), key=_text)}
    if type(thing) in (dict, types.MappingProxyType):
        told = {k if type(k) is str else f"{type(k).__name__} {k!r}": describe(v) for k, v in thing.items()}
        return {"dict": [[key, told[key]] for key in sorted(told)]} if RESERVED & told.keys() else told
    for special in SPECIAL:
        described = special(thing)
        if described is not None:
            return described
    return _library_thing(thing) if _is_library_thing(thing) else owned(thing)


def owned(thing: Any) -> dict[str, Any]:
    """A function or object of the user's: its version, else its token.

    The version must be its own: one that a class gives to all its instances, or that ``functools.wraps`` copied from
    the function inside, says nothing about this one.
    """
    if isinstance(thing, types.MethodType):
        inner, function = describe(thing.__self__), thing.__func__
        name = getattr(function, "__name__", "")
        if getattr(type(thing.__self__), name, None) is function and not list(unknown_parts(inner)):
            return {"method": name, "of": inner}
        return {UNKNOWN: f"method {label(function)}", "process": f"{token(thing.__self__)}.{token(function)}"}
    version = own_version(thing)
    if version is not None:
        return {"object": label(thing), "version": version}
    kind = "function" if hasattr(thing, "__qualname__") else "object of class"
    return {UNKNOWN: f"{kind} {label(thing)}", "process": token(thing)}


def own_version(thing: Any) -> str | None:
    """The version that the owner gave to this very thing."""
    mine = getattr(thing, "__dict__", {})
    version = mine.get("version")
    if version is None or isinstance(thing, type) or not str(version).strip():
        return None
    inside = mine.get("__wrapped__")
    copied = inside is not None and getattr(inside, "version", None) == version
    return None if copied or type(version) not in (str, int) else str(version)


def unknown_parts(description: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Where a description holds something that nobody knows: (place, what it is)."""
    if isinstance(description, Mapping):
        if UNKNOWN in description and "process" in description:
            yield at, str(description[UNKNOWN])
            return
        for key, part in description.items():
            yield from unknown_parts(part, f"{at}.{key}" if at else str(key))
    elif isinstance(description, list):
        for index, part in enumerate(description):
            yield from unknown_parts(part, f"{at}.{index}" if at else str(index))


def digest(description: Any) -> str:
    """A short hash of a description."""
    return hashlib.sha256(_text(description).encode()).hexdigest()[:32]


def brief(description: Any) -> Any:
    """A long description as its hash, beside whatever nobody knows of it."""
    unknown = [{UNKNOWN: what, "process": digest(description)} for _, what in unknown_parts(description)]
    return {"sha256": digest(description), "parts": unknown} if unknown else digest(description)


def fields_of(thing: Any) -> dict[str, Any]:
    """The public attributes of a library's object, names of display left out."""
    if dataclasses.is_dataclass(thing):
        found = {each.name: getattr(thing, each.name) for each in dataclasses.fields(thing)}
    else:
        found = dict(getattr(thing, "__dict__", {}))
    return {key: value for key, value in found.items() if not key.startswith("_") and key not in LABELS}


def _is_library_thing(thing: Any) -> bool:
    if isinstance(thing, types.FunctionType):
        return is_known(thing) and thing.__closure__ is None and "__wrapped__" not in vars(thing)
    if isinstance(thing, types.MethodType | functools.partial):
        return False
    return is_known(thing if isinstance(thing, type | types.BuiltinFunctionType) else type(thing))


def _library_thing(thing: Any) -> Any:
    """An object of a library: its class and its fields."""
    if isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType):
        return {"named": label(thing)}
    if hasattr(thing, "identity_parts"):
        return {"class": label(type(thing)), **{key: describe(each) for key, each in thing.identity_parts().items()}}
    if not hasattr(thing, "__dict__") and not dataclasses.is_dataclass(thing):
        return owned(thing)
    patched = [
        name for name, value in vars(thing).items() if callable(value) and callable(getattr(type(thing), name, None))
    ]
    if patched and not dataclasses.is_dataclass(thing):
        return owned(thing)  # somebody put another method in the place of the class's own
    return {"class": label(type(thing)), **{key: describe(value) for key, value in fields_of(thing).items()}}


def _text(description: Any) -> str:
    return json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
