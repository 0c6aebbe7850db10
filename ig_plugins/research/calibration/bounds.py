"""Exact confidence bounds for a rate (Clopper and Pearson, Biometrika 26, 1934), by scipy's beta distribution."""

from typing import Any

from ig_plugins.errors import ConfigurationError


def upper_bound(hits: int, trials: int, risk: float) -> float:
    """The largest rate under which so few hits are no rarer than ``risk``.

    For independent trials of any true rate p, p exceeds the returned bound with probability at most ``risk``.

    Args:
        hits: How often it happened.
        trials: How often it could have.
        risk: δ in (0, 1), one-sided.
    """
    _check(hits, trials, risk)
    return 1.0 if hits == trials else float(_beta().ppf(1 - risk, hits + 1, trials - hits))


def lower_bound(hits: int, trials: int, risk: float) -> float:
    """The smallest rate under which so many hits are no rarer than ``risk``; see ``upper_bound``."""
    _check(hits, trials, risk)
    return 0.0 if hits == 0 else float(_beta().ppf(risk, hits, trials - hits + 1))


def interval(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided interval that covers the true rate with at least this confidence."""
    risk = (1 - confidence) / 2
    return lower_bound(hits, trials, risk), upper_bound(hits, trials, risk)


def _check(hits: int, trials: int, risk: float) -> None:
    if not 0 <= hits <= trials or trials < 1:
        raise ConfigurationError(f"{hits} hits of {trials} trials; give 0 <= hits <= trials and at least one trial")
    if not 0 < risk < 1:
        raise ConfigurationError(f"a risk of {risk}; give a number between 0 and 1, such as 0.05")


def _beta() -> Any:
    try:
        from scipy.stats import beta
    except ImportError as error:
        raise ConfigurationError(
            "confidence bounds need scipy, which is not installed; run: pip install 'inferenceguard[evaluation]'"
        ) from error
    return beta
