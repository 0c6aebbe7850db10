"""llguidance, the library that follows grammars; an extra, so it is looked for when a grammar is asked for."""

import importlib.util
from types import ModuleType

from ig_plugins.errors import ConfigurationError


def installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("llguidance") is not None


def llguidance() -> ModuleType:
    """The library.

    Raises:
        ConfigurationError: It is not installed.
    """
    if not installed():
        raise ConfigurationError(
            'to hold answers to a grammar, llguidance must be installed: pip install "inferenceguard[grammar]"'
        )
    import llguidance
    import llguidance.hf

    return llguidance
