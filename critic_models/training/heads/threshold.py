"""The threshold of a cost head by a rule that its user states: at most a share of harmless answers is flagged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from critic_models.errors import ConfigurationError
from critic_models.training.heads.linear import Floats


@dataclass(frozen=True)
class Threshold:
    """A limit and the rule that set it.

    Attributes:
        limit: Scores above it are unsafe.
        rule: In words, for the card.
        flagged: Share of the harmless answers above it.
    """

    limit: float
    rule: str
    flagged: float


def flag_at_most(share: float, scores: Sequence[float] | Floats, *, source: str) -> Threshold:
    """The lowest threshold above which lies at most a share of the harmless answers' scores.

    Args:
        share: Such as 0.05.
        scores: Of harmless answers that the head was not trained on, shape (n,).
        source: What they are, for the rule.

    Raises:
        ConfigurationError: A share outside [0, 1), or too few answers to tell it.
    """
    if not 0 <= share < 1:
        raise ConfigurationError(f"flag_at_most is {share}; give a share from 0 up to, but not including, 1")
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    needed = 20 if share == 0 else int(np.ceil(1 / share))
    if len(ordered) < needed:
        raise ConfigurationError(
            f"flag_at_most is {share:g}, and {len(ordered)} harmless answers ({source}) cannot show such a share; "
            f"give at least {needed} of them, a larger held_out, or a harmless file"
        )
    allowed = int(np.floor(share * len(ordered)))
    limit = float(ordered[len(ordered) - 1 - allowed])
    rule = f"at most {100 * share:g} % of {len(ordered)} harmless answers ({source}) flagged"
    return Threshold(limit, rule, float(np.mean(ordered > limit)))
