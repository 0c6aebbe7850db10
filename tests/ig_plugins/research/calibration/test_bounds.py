"""Clopper-Pearson bounds and the feasibility statement, against the binomial distribution itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from ig_plugins.errors import ConfigurationError
from ig_plugins.research.calibration.bounds import interval, lower_bound, upper_bound
from ig_plugins.research.calibration.feasibility import feasibility

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
risks = st.floats(0.001, 0.5)


@given(counts, risks)
def test_the_bound_is_where_so_few_hits_become_rare(count, risk):
    hits, trials = count
    bound = upper_bound(hits, trials, risk)
    if hits == trials:
        assert bound == 1.0
    else:
        assert binom.cdf(hits, trials, bound) == pytest.approx(risk, rel=1e-6)


@given(counts, risks)
def test_lower_mirrors_upper(count, risk):
    hits, trials = count
    assert lower_bound(hits, trials, risk) == pytest.approx(1 - upper_bound(trials - hits, trials, risk), abs=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("trials", [20, 150])
def test_coverage_is_exact_not_simulated(rate, trials):
    """Summed over every outcome: the true rate is above the bound with probability at most δ."""
    missed = sum(binom.pmf(hits, trials, rate) for hits in range(trials + 1) if upper_bound(hits, trials, 0.05) < rate)
    assert missed <= 0.05
    outside = sum(
        binom.pmf(hits, trials, rate)
        for hits in range(trials + 1)
        if not interval(hits, trials)[0] <= rate <= interval(hits, trials)[1]
    )
    assert outside <= 0.05


@pytest.mark.parametrize(("hits", "trials", "risk"), [(-1, 5, 0.1), (6, 5, 0.1), (0, 0, 0.1), (1, 5, 0.0), (1, 5, 1.0)])
def test_nonsense_is_refused(hits, trials, risk):
    with pytest.raises(ConfigurationError):
        upper_bound(hits, trials, risk)


@given(st.floats(0.005, 0.5), st.floats(0.5, 0.999))
def test_needed_is_the_smallest_number_that_could_certify(target, confidence):
    report = feasibility(50, target=target, confidence=confidence)
    assert upper_bound(0, report.needed, 1 - confidence) <= target
    assert report.needed == 1 or upper_bound(0, report.needed - 1, 1 - confidence) > target
    assert report.feasible == (report.needed <= 50)


def test_the_textbook_case():
    """The rule of three's exact form: 59 clean prompts for 5 % at 95 %."""
    assert feasibility(59, target=0.05, confidence=0.95).allowed == 0
    tight = feasibility(58, target=0.05, confidence=0.95)
    assert not tight.feasible
    assert "at least 59 are needed" in tight.statement()
    wide = feasibility(200, target=0.05, confidence=0.95)
    assert upper_bound(wide.allowed, 200, 0.05) <= 0.05 < upper_bound(wide.allowed + 1, 200, 0.05)
    assert f"up to {wide.allowed} unsafe" in wide.statement()


def test_hopeless_prompts_cost_refusals():
    pilot = [[True, True]] * 30 + [[True, False]] * 50 + [[False, False]] * 20
    report = feasibility(100, target=0.05, confidence=0.9, pilot=pilot)
    assert report.hopeless == 0.3
    assert report.refusals == pytest.approx(0.25)
    assert report.hopeless_interval[0] < 0.3 < report.hopeless_interval[1]
    assert "about 25.0% refusals" in report.statement()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": 10, "target": 0.0, "confidence": 0.9}, "target is 0.0"),
        ({"prompts": 10, "target": 0.1, "confidence": 1.0}, "confidence is 1.0"),
        ({"prompts": 0, "target": 0.1, "confidence": 0.9}, "no prompts"),
        ({"prompts": 9, "target": 0.1, "confidence": 0.9, "pilot": [[True], [True, False]]}, r"\[1, 2\] samples"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        feasibility(**arguments)
