"""The key of a service that is asked over HTTP."""

import os

from critic_models.errors import ConfigurationError


def bearer(variable: str) -> dict[str, str]:
    """The header with the key, ``Authorization: Bearer``; none where the environment has no key.

    Args:
        variable: The environment variable that holds it.

    Raises:
        ConfigurationError: No HTTP header can carry it. The message does not quote it.
    """
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigurationError(
            f"{variable} holds characters that no HTTP header can carry; put the key alone into it, in ASCII"
        )
    return {"authorization": f"Bearer {key}"} if key else {}


def without_key(text: str, variable: str) -> str:
    """A text in which a service may have quoted the key that it was sent, without the key."""
    key = os.environ.get(variable, "").strip()
    return text.replace(key, f"({variable})") if key else text
