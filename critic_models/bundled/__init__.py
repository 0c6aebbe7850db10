"""The bundled world and its models: two policies, a reward and a cost model, and how they are built."""

from pathlib import Path

from critic_models.errors import ConfigurationError

MODELS = ("tiny-alpaca", "tiny-beaver", "tiny-reward", "tiny-cost")
CRITICS = ("tiny-alpaca-critic", "tiny-beaver-critic")
HEADS = ("chat-cost-words", "chat-cost", "chat-reward", "smollm2-probe")  # trained on public data, see their cards


def path(name: str) -> Path:
    """The folder of a bundled model.

    Raises:
        ConfigurationError: There is no bundled model of that name.
    """
    known = MODELS + CRITICS + HEADS
    if name not in known:
        raise ConfigurationError(f"no bundled model {name!r}; there are {', '.join(known)}")
    return Path(__file__).parent / "models" / name
