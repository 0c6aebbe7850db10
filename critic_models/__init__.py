"""Everything that judges text or latents: critics, reward and cost models, classifiers, guard LLMs, callables.

Importing this package does not load torch; a name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from critic_models.critic import CriticBinding, LatentCritic
    from critic_models.errors import (
        ConfigurationError,
        InferenceGuardError,
        JudgeError,
        MismatchError,
        ModelLoadError,
        UnsupportedModelError,
    )
    from critic_models.judges import (
        CallableJudge,
        ClassifyJudge,
        HttpJudge,
        Judge,
        ScoreJudge,
        TokenClassifyJudge,
        TokenJudge,
        VerdictJudge,
        as_judge,
        load_judge,
    )
    from critic_models.score_models import ScoreModel

__all__ = [
    "CallableJudge",
    "ClassifyJudge",
    "ConfigurationError",
    "CriticBinding",
    "HttpJudge",
    "InferenceGuardError",
    "Judge",
    "JudgeError",
    "LatentCritic",
    "MismatchError",
    "ModelLoadError",
    "ScoreJudge",
    "ScoreModel",
    "TokenClassifyJudge",
    "TokenJudge",
    "UnsupportedModelError",
    "VerdictJudge",
    "as_judge",
    "load_judge",
]

_HOMES = {
    "CallableJudge": "judges",
    "ClassifyJudge": "judges",
    "CriticBinding": "critic",
    "HttpJudge": "judges",
    "Judge": "judges",
    "LatentCritic": "critic",
    "ScoreJudge": "judges",
    "ScoreModel": "score_models",
    "TokenClassifyJudge": "judges",
    "TokenJudge": "judges",
    "VerdictJudge": "judges",
    "as_judge": "judges",
    "load_judge": "judges",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
