"""Presets by name, read from the TOML files of this folder."""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from critic_models import bundled
from critic_models.validation import explain
from ig_plugins.errors import ConfigurationError, did_you_mean
from ig_plugins.presets.schema import Checkpoint, CostCheckpoint, Installed, Preset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "BUNDLED",
    "Checkpoint",
    "CostCheckpoint",
    "Installed",
    "Preset",
    "find_installed",
    "known",
    "located",
    "names",
    "preset",
    "read",
]

BUNDLED = "bundled:"  # starts the sources that are models inside this package
_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The presets' names, the bundled ones first."""
    found = [path.stem for path in _FOLDER.glob("*.toml")]
    return sorted(found, key=lambda name: (not name.startswith("tiny-"), name))


def known(name: str) -> bool:
    """Whether a name is a preset's, with or without a variant."""
    return name.partition(":")[0] in names()


def located(source: str) -> str:
    """Where a checkpoint's source leads: the folder of a bundled model; a hub id or a folder as it is."""
    return str(bundled.path(source.removeprefix(BUNDLED))) if source.startswith(BUNDLED) else source


def find_installed(checkpoint: Checkpoint) -> Path | None:
    """The checkpoint's file inside an installed package, which is not imported; None if it is not there."""
    if checkpoint.installed is None:
        return None
    package, _, inside = checkpoint.installed.file.partition("/")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () if (path := Path(folder) / inside).is_file()), None)


@lru_cache
def preset(name: str) -> Preset:
    """A preset by name; ``NAME:VARIANT`` takes another reward model.

    Raises:
        ConfigurationError: No such preset or variant; the message lists what there is.
    """
    base, _, variant = name.partition(":")
    if base not in names():
        raise ConfigurationError(f"no preset {base!r}; there are {', '.join(names())}.{did_you_mean(base, names())}")
    found = read(_FOLDER / f"{base}.toml")
    if not variant:
        return found
    if variant not in found.variants:
        known = ", ".join(found.variants) or "none"
        raise ConfigurationError(f"preset {base!r} has no variant {variant!r}; its variants: {known}")
    return found.model_copy(update={"name": name, "reward": found.variants[variant]})


def read(path: Path) -> Preset:
    """A preset from a TOML file, one's own included.

    Raises:
        ConfigurationError: The file is missing, is no TOML, or says something that is not known or not allowed.
    """
    try:
        return Preset(**tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"cannot read the preset {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {explain(error)}") from error
