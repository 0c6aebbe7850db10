"""Functions by name: ``module:function``, or ``path/to/file.py:function``."""

import hashlib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

from critic_models.errors import ConfigurationError

MODULE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
FORM = "a function is named module:function or file.py:function"


def is_function_name(source: str) -> bool:
    """Whether a source names a function; an existing path of that name is a path."""
    return bool(FILE.fullmatch(source) or MODULE.fullmatch(source)) and not Path(source).exists()


def named_function(source: str) -> Any:
    """The function, or any other judge, that a name stands for. Its module is imported, which runs its code.

    Raises:
        ConfigurationError: No such module, file or name, or a module that fails while it is imported.
    """
    if of_file := FILE.fullmatch(source):
        module = _from_file(Path(of_file["file"]).expanduser(), source)
    elif of_module := MODULE.fullmatch(source):
        module = _imported(of_module["module"], source)
    else:
        raise ConfigurationError(f"{source!r} names no function; {FORM}")
    name = source.rpartition(":")[2]
    if not hasattr(module, name):
        offered = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise ConfigurationError(f"{source!r}: there is no {name}; it defines {', '.join(offered[:8]) or 'nothing'}")
    return getattr(module, name)


def code_of(function: Any) -> str | None:
    """The hash of the file that defines a function; None for anything else, and where no file can be read.

    Args:
        function: It, or its name.
    """
    if isinstance(function, FunctionType):
        path = function.__code__.co_filename
    elif isinstance(function, str) and is_function_name(function):
        of_file, module = FILE.fullmatch(function), sys.modules.get(function.partition(":")[0])
        path = str(Path(of_file["file"]).expanduser()) if of_file else getattr(module, "__file__", None) or ""
    else:
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None


def _imported(module: str, source: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{source!r}: no module {error.name!r} can be imported; check the spelling, PYTHONPATH, or name the file: "
            f"path/to/{module.rpartition('.')[2]}.py:{source.rpartition(':')[2]}"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"{source!r}: importing {module} failed with {type(error).__name__}: {error}"
        ) from error


def _from_file(path: Path, source: str) -> Any:
    if not path.is_file():
        raise ConfigurationError(f"{source!r}: no file at {path}; check the path")
    name = f"inferenceguard_judge_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{source!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles inside it look it up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise ConfigurationError(f"{source!r}: running {path} failed with {type(error).__name__}: {error}") from error
    return module
