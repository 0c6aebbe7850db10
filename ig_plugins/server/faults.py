"""Failures that are the service's own: the operator's log says what and where."""

from __future__ import annotations

import logging
import traceback

log = logging.getLogger("inferenceguard.errors")


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
