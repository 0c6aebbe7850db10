"""InferenceGuard by the name it is installed under: everything public of the core and of the judges, in one place.

The frameworks' classes stand where their users look: `langchain_inferenceguard` and `llama_index.llms.inferenceguard`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import critic_models
import ig_plugins

if TYPE_CHECKING:
    from critic_models import *  # noqa: F403
    from ig_plugins import *  # noqa: F403

__all__ = [*dict.fromkeys([*ig_plugins.__all__, *critic_models.__all__])]  # noqa: PLE0604  (errors stand in both)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    home = "ig_plugins" if name in ig_plugins.__all__ else "critic_models"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
