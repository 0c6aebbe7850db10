"""Fixed-sequence testing: the least strict setting that still holds a target, with one confidence for all.

The order of the settings is fixed before any answer is judged, from strict to lax. Each is tested at the full level
δ, and the first failure ends the sequence. A setting with a true rate above α is certified only if the first such
setting in the order passes its own test, which happens with probability at most δ (Angelopoulos et al., "Learn then
Test", arXiv 2110.01052). The same prompts may serve all settings.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ig_plugins.errors import ConfigurationError
from ig_plugins.guard.certificate import Certificate, Setting, check_known, fingerprint
from ig_plugins.research.calibration.bounds import upper_bound


@dataclass(frozen=True)
class Tally:
    """What one setting did on the calibration prompts."""

    prompts: int
    unsafe: int
    refused: int


@dataclass(frozen=True)
class Calibration:
    """The tested settings, and the certificate if the strictest one held."""

    tested: tuple[Setting, ...]
    certificate: Certificate | None

    def statement(self) -> str:
        """In words, whether it succeeded or not."""
        if self.certificate is not None:
            return self.certificate.statement()
        first = self.tested[0]
        return (
            f"Nothing is certified: the strictest setting already gave {first.unsafe} unsafe answers on "
            f"{first.prompts} prompts, which bounds the rate by {first.bound:.2%} only. Try a stricter setting, more "
            "prompts, or a laxer target."
        )


def digest(prompts: Sequence[str]) -> str:
    """SHA-256 over prompts, in order."""
    return hashlib.sha256("\x00".join(prompts).encode()).hexdigest()


def in_sequence(
    settings: Iterable[Mapping[str, Any]],
    measure: Callable[[Mapping[str, Any]], Tally],
    *,
    target: float,
    confidence: float,
) -> tuple[Setting, ...]:
    """Tests settings in order until the first that fails.

    Args:
        settings: From strict to lax; the order must not depend on the answers.
        measure: Answers the calibration prompts under a setting and judges them.
        target: α.
        confidence: 1 − δ, of the whole sequence.
    """
    tested: list[Setting] = []
    for overrides in settings:
        tally = measure(overrides)
        bound = upper_bound(tally.unsafe, tally.prompts, 1 - confidence)
        tested.append(
            Setting(
                overrides=dict(overrides),
                prompts=tally.prompts,
                unsafe=tally.unsafe,
                refused=tally.refused,
                bound=bound,
                certified=bound <= target,
            )
        )
        if bound > target:
            break
    return tuple(tested)


def calibrate(
    settings: Sequence[Mapping[str, Any]],
    measure: Callable[[Mapping[str, Any]], Tally],
    identity: Callable[[Mapping[str, Any]], dict[str, Any]],
    *,
    prompts: Sequence[str],
    judge: str,
    judge_limit: float,
    target: float,
    confidence: float,
    seed: int,
    judge_identity: dict[str, Any] | None = None,
) -> Calibration:
    """Tests the settings in order and binds the last certified one to its guard.

    Args:
        settings: Guard options from strict to lax.
        measure: Answers and judges all prompts under a setting.
        identity: The identity of the guard under a setting.
        prompts: The calibration prompts, for the fingerprint.
        judge: The judge's name.
        judge_limit: Scores above it are unsafe.
        judge_identity: What the judge is.
        target: α.
        confidence: 1 − δ.
        seed: Of the run.

    Raises:
        ConfigurationError: No settings, no prompts, or a number that cannot mean anything.
        MismatchError: Something about the guard cannot be known.
    """
    if not settings or not prompts:
        raise ConfigurationError("calibration needs at least one setting and one prompt; give both")
    for name, value in (("target", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigurationError(f"{name} is {value}; give a number between 0 and 1")
    if not math.isfinite(judge_limit):
        raise ConfigurationError(f"judge_limit is {judge_limit}, which no score is above; give a finite number")
    if seed < 0:
        raise ConfigurationError(f"seed is {seed}; give 0 or a positive number")
    for overrides in settings:  # before anything is answered: it may take hours
        check_known(identity(overrides))
    tested = in_sequence(settings, measure, target=target, confidence=confidence)
    certified = [setting for setting in tested if setting.certified]
    if not certified:
        return Calibration(tested, None)
    certain = identity(certified[-1].overrides)
    certificate = Certificate(
        target=target,
        confidence=confidence,
        judge=judge,
        judge_limit=judge_limit,
        judge_identity=judge_identity,
        prompts_fingerprint=digest(prompts),
        seed=seed,
        tested=tested,
        identity=certain,
        identity_hash=fingerprint(certain),
    )
    return Calibration(tested, certificate)
