"""Who decodes the next block when a guard has several batches: small requests do not wait for large ones to end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ig_plugins.runtime.batch import ALIKE, Batch

GRACE = 1.0  # seconds that small requests may be ahead, so that a short one is not interrupted


class Shares:
    """Fair shares of time: batches of light blocks get half of it, those of heavy blocks the other half.

    So a small request takes at most about twice its time beside any number of large ones, after one block of theirs to
    begin with; and no stream of small requests starves a large one. Within a half, whoever has had least is next.
    """

    def __init__(self) -> None:
        self._ahead = 0.0  # seconds that light batches have had more than heavy ones

    def join(self, batch: Batch, others: Sequence[Batch]) -> None:
        """A new batch starts even with those that are there: it has no claim on time when it was not."""
        batch.seconds = min((each.seconds for each in others), default=0.0)

    @contextmanager
    def turn(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """The batch whose turn it is; how long its block takes counts against it."""
        least = min(each.work for each in batches)
        light = [each for each in batches if each.work <= ALIKE * least]
        heavy = [each for each in batches if each.work > ALIKE * least]
        if not heavy:
            self._ahead = 0.0
        lightly = not heavy or self._ahead < GRACE
        chosen = min(light if lightly else heavy, key=lambda each: each.seconds)
        started = time.monotonic()
        try:
            yield chosen
        finally:
            spent = time.monotonic() - started
            chosen.seconds += spent
            if heavy:
                self._ahead = max(-GRACE, self._ahead + (spent if lightly else -spent))
