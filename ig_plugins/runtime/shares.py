"""Who decodes the next block when a guard has several batches: small requests do not wait for large ones to end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ig_plugins.runtime.batch import Batch


class Shares:
    """Fair shares of time: the batch of the lightest blocks gets half, the others share the rest evenly.

    So a small request takes about twice its time beside any number of large ones, and one block of theirs to begin
    with; and no stream of small requests starves a large one.
    """

    def __init__(self) -> None:
        self._ahead = 0.0  # seconds that the lightest batch has had more than the others together

    def join(self, batch: Batch, others: Sequence[Batch]) -> None:
        """A new batch starts even with those that are there: it has no claim on time when it was not."""
        batch.seconds = min((each.seconds for each in others), default=0.0)

    @contextmanager
    def turn(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        """The batch whose turn it is; how long the block takes counts against it."""
        lightest = min(batches, key=lambda each: each.work)
        others = [each for each in batches if each is not lightest]
        if not others:
            self._ahead = 0.0
        chosen = lightest if self._ahead <= 0 or not others else min(others, key=lambda each: each.seconds)
        started = time.monotonic()
        try:
            yield chosen
        finally:
            spent = time.monotonic() - started
            chosen.seconds += spent
            if others:
                self._ahead += spent if chosen is lightest else -spent
