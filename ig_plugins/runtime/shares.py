"""Who decodes the next block when a guard has several batches: small requests do not wait for large ones to end."""

from __future__ import annotations

from collections.abc import Sequence

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
        """A batch that comes, or comes back, has no claim on time when it was not there."""
        batch.seconds = max(batch.seconds, min((each.seconds for each in others), default=0.0))

    def next(self, batches: Sequence[Batch]) -> Batch:
        """The batch whose turn it is."""
        light, heavy = _halves(batches)
        if not heavy:
            self._ahead = 0.0
        return min(light if not heavy or self._ahead < GRACE else heavy, key=lambda each: each.seconds)

    def charge(self, batch: Batch, batches: Sequence[Batch], *, seconds: float) -> None:
        """A block of this one among those that take turns has taken so long."""
        batch.seconds += seconds
        light, heavy = _halves(batches)
        if heavy:
            self._ahead = max(-GRACE, self._ahead + (seconds if batch in light else -seconds))


def _halves(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Those of light blocks, and those of heavy ones."""
    most = ALIKE * min(each.work for each in batches)
    return [each for each in batches if each.work <= most], [each for each in batches if each.work > most]
