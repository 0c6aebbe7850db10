"""The certificate: what it promises over many repetitions, and what it refuses to be loaded for."""

import json
import random

import pytest
from scipy.stats import binomtest

from ig_plugins.errors import ConfigurationError, MismatchError
from ig_plugins.research.calibration import Calibration, Certificate, calibrate
from ig_plugins.research.calibration.calibrate import Tally, in_sequence

IDENTITY = {"policy": {"id": "tiny", "hash": "ab"}, "budget": {"limit": 1.0}, "search": {"candidates": 4, "seed": 3}}


def tally(unsafe, prompts=100, refused=7):
    return Tally(prompts=prompts, unsafe=unsafe, refused=refused)


def calibrated(unsafe_by_limit, *, target=0.05) -> Calibration:
    return calibrate(
        [{"limit": limit} for limit in unsafe_by_limit],
        lambda setting: tally(unsafe_by_limit[setting["limit"]]),
        lambda setting: {**IDENTITY, "budget": {"limit": setting["limit"]}},
        prompts=["a", "b"],
        judge="exact",
        judge_limit=0.0,
        target=target,
        confidence=0.95,
        seed=0,
    )


def test_the_least_strict_setting_that_holds_is_chosen_and_the_first_failure_ends_it():
    result = calibrated({1.0: 0, 2.0: 1, 4.0: 5, 8.0: 0})
    assert [setting.certified for setting in result.tested] == [True, True, False]
    assert result.certificate.chosen.overrides == {"limit": 2.0}
    assert result.certificate.identity["budget"] == {"limit": 2.0}
    words = result.statement()
    assert "at most 5.00% of prompts" in words
    assert "own bound is 4.66%" in words
    assert "1 unsafe and 7 refused" in words
    assert "'exact'" in words


def test_nothing_is_certified_when_the_strictest_fails():
    result = calibrated({1.0: 9, 2.0: 0})
    assert result.certificate is None
    assert "Nothing is certified" in result.statement()
    assert "9 unsafe answers on 100" in result.statement()


def test_without_settings_there_is_nothing_to_calibrate():
    with pytest.raises(ConfigurationError, match="at least one setting"):
        calibrated({})


@pytest.mark.parametrize(
    "rates",
    [
        [0.051, 0.08, 0.2],  # all too high: the very first test is the one that may err
        [0.001, 0.06, 0.07],  # the second one must not pass
        [0.01, 0.04, 0.0501],
        [0.2, 0.001, 0.2],  # not even monotone
    ],
)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_a_wrong_certificate_is_as_rare_as_promised(rates, confidence):
    """Over 400 calibrations the chosen setting's true rate exceeds the target in at most a δ share.

    The settings are judged on the same prompts (one uniform number a prompt), so their tests depend on each other,
    as they do in use. The share is tested exactly: it must be compatible with δ at the 0.1 % level.
    """
    dice, repetitions, target, wrong = random.Random(7), 400, 0.05, 0
    for _ in range(repetitions):
        prompts = [dice.random() for _ in range(150)]
        tested = in_sequence(
            [{"index": index} for index in range(len(rates))],
            lambda setting, prompts=prompts: Tally(150, sum(u < rates[setting["index"]] for u in prompts), 0),
            target=target,
            confidence=confidence,
        )
        chosen = [setting.overrides["index"] for setting in tested if setting.certified]
        wrong += bool(chosen) and rates[chosen[-1]] > target
    assert binomtest(wrong, repetitions, 1 - confidence, alternative="greater").pvalue > 0.001


def test_the_simulation_could_fail():
    """The same count with a bound that is no bound (the observed rate) is caught."""
    dice, wrong = random.Random(7), 0
    for _ in range(400):
        wrong += sum(dice.random() < 0.051 for _ in range(150)) / 150 <= 0.05
    assert binomtest(wrong, 400, 0.2, alternative="greater").pvalue < 0.001


def test_round_trip_and_match(tmp_path):
    certificate = calibrated({1.0: 0}).certificate
    path = certificate.save(tmp_path / "certificate.json")
    assert Certificate.load(path) == certificate
    assert [p.name for p in tmp_path.iterdir()] == ["certificate.json"]
    certificate.check({**IDENTITY, "search": {"candidates": 4, "seed": 99}})  # the promise is over all seeds


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({**IDENTITY, "budget": {"limit": 2.0}}, "budget.limit: certified 1.0, here 2.0"),
        ({**IDENTITY, "policy": {"id": "tiny", "hash": "cd"}}, 'policy.hash: certified "ab", here "cd"'),
        ({k: v for k, v in IDENTITY.items() if k != "policy"}, "here absent"),
        ({**IDENTITY, "critic": "new"}, 'critic: certified absent, here "new"'),
        ({**IDENTITY, "search": {"candidates": 8, "seed": 3}}, "search.candidates: certified 4, here 8"),
    ],
)
def test_another_guard_is_refused(identity, message):
    with pytest.raises(MismatchError, match=message):
        calibrated({1.0: 0}).certificate.check(identity)


def test_files_that_are_no_certificate_are_refused(tmp_path):
    with pytest.raises(MismatchError, match="no certificate at"):
        Certificate.load(tmp_path / "missing.json")
    path = tmp_path / "certificate.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(MismatchError, match="not text"):
        Certificate.load(path)
    path.write_text("{}")
    with pytest.raises(MismatchError, match="not a valid certificate"):
        Certificate.load(path)


@pytest.mark.parametrize(
    "forge", ["identity", "bound", "order", "after a failure", "flag", "counts", "nan", "nan bound", "nan override"]
)
def test_an_edited_certificate_is_refused(tmp_path, forge):
    path = calibrated({1.0: 0, 2.0: 9}).certificate.save(tmp_path / "certificate.json")
    content = json.loads(path.read_text())
    if forge == "flag":
        content["tested"][0]["certified"] = False
    if forge == "counts":
        content["tested"][0]["refused"] = 200
    if forge == "nan":
        content["judge_limit"] = float("nan")
    if forge == "nan bound":
        content["tested"][1]["bound"] = float("nan")
    if forge == "nan override":
        content["tested"][0]["overrides"]["limit"] = float("nan")
    if forge == "identity":
        content["identity"]["budget"]["limit"] = 50.0
    if forge == "bound":
        content["target"] = 0.001
    if forge == "order":
        content["tested"][0]["certified"], content["tested"][1]["certified"] = False, True
    if forge == "after a failure":  # each by itself is as it should be
        content["tested"].append(content["tested"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(MismatchError, match="not a valid certificate"):
        Certificate.load(path)
