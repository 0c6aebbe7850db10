"""Failures that are the service's own: the operator's log says what and where, a client only of which kind."""

from __future__ import annotations

import logging
import traceback

from critic_models.errors import JudgeError, JudgeTimeoutError
from ig_plugins.errors import RemoteBusyError, RemoteError, RemoteTimeoutError

log = logging.getLogger("inferenceguard.errors")

PUBLIC: tuple[tuple[type[Exception], str], ...] = (
    (JudgeTimeoutError, "a judge of this service took too long; no text is released without its verdict, so ask again"),
    (JudgeError, "a judge of this service failed; no text is released without its verdict"),
    (RemoteBusyError, "the server behind this model is busy; ask again later"),
    (RemoteTimeoutError, "the server behind this model took too long; ask again later"),
    (RemoteError, "the server behind this model failed; nothing of its reply is used"),
)
"""What a client reads of errors whose own words name the operator's files and addresses, the first that fits."""


def public(error: Exception) -> str:
    """An error's message for a client."""
    return next((words for kind, words in PUBLIC if isinstance(error, kind)), str(error))


def report(error: Exception) -> None:
    """Logs an error and what caused it.

    Our own messages never hold a prompt or an answer; those of other people's code may, so of these the log has the
    type and the place.
    """
    causes = "; caused by ".join(_placed(each) for each in _causes(error))
    log.error("%s: %s%s", type(error).__name__, error, f" ({causes})" if causes else "")


def _causes(error: BaseException) -> list[BaseException]:
    """What an error came from, and what that came from; they may go round in a circle."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and not any(cause is each for each in chain):
        chain.append(cause)
    return chain[1:]


def _placed(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} in {frames[-1].filename}, line {frames[-1].lineno}, {frames[-1].name}"
