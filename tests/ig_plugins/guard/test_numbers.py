"""No number that cannot be compared enters: NaN and infinities are refused, with a typed error, at every door."""

import contextlib
import json
import math
import sys

import pytest
from fastapi.testclient import TestClient

from critic_models.critic import CriticConfig, CriticCost, LatentCritic
from critic_models.errors import InferenceGuardError
from critic_models.judges import CallableJudge, GuardJudge, ScoreJudge
from critic_models.training.critic import CriticTrainingConfig, TrainingCost
from ig_plugins import InferenceGuard, SafetyBudget, SearchConfig, cli
from ig_plugins.errors import ConfigurationError, ModelLoadError
from ig_plugins.guard.adapter_fields import GuardFields
from ig_plugins.research.calibration import calibrate, feasibility
from ig_plugins.research.calibration.bounds import interval, lower_bound, upper_bound
from ig_plugins.research.calibration.calibrate import Tally
from ig_plugins.research.evaluation.prompts import load_prompts
from ig_plugins.research.evaluation.verdicts import Verdicts, counts, numbers
from ig_plugins.research.methods import Context
from ig_plugins.research.rollouts import RolloutConfig
from ig_plugins.server import create_app
from tests.kit.guards import make_guard
from tests.kit.tiny import save_tiny, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

NAN, INF = float("nan"), float("inf")
NEVER = (NAN, INF, -INF)
SEARCH = sorted(set(SearchConfig.model_fields) - {"adaptive", "selection", "stratified", "schedule"})


@pytest.fixture(scope="module")
def guard():
    return make_guard()


def bad_options():
    for value in NEVER:
        for name in SEARCH:
            yield ("max_tokens" if name == "max_new_tokens" else name), value
        yield "schedule", [8, value]
        yield "budget", value
        if value is not INF:
            yield "timeout", value  # infinite is none


@pytest.mark.parametrize(("name", "value"), list(bad_options()))
def test_options_of_guards_calls_and_models(guard, name, value):
    asked = [lambda: guard.generate("Go.", **{name: value}), lambda: guard.with_options(**{name: value})]
    asked += [lambda: guard.stream("Go.", **{name: value}), lambda: guard.request("Go.", **{name: value})]
    for ask in asked:
        with pytest.raises(ConfigurationError):
            ask()
    if name in GuardFields.model_fields:
        with pytest.raises(ValueError, match=r"finite|greater|less|limit"):  # at once, or else at the first call
            guard.generate("Go.", **GuardFields.from_guard(guard, **{name: value}).call_options())


@pytest.mark.parametrize("value", NEVER)
@pytest.mark.parametrize("field", ["limit", "discount"])
def test_a_budget_that_was_copied_or_built_past_its_checks(guard, field, value):
    copied = guard.budget.model_copy(update={field: value})
    built = SafetyBudget.model_construct(**{**guard.budget.model_dump(), field: value})
    for budget in (copied, built, [copied]):
        for ask in (lambda b: guard.generate("Go.", budget=b), lambda b: guard.with_options(budget=b)):
            with pytest.raises(ConfigurationError, match=field):
                ask(budget)
    with pytest.raises(ConfigurationError, match=field):
        InferenceGuard.from_pretrained("tiny-beaver", budget=copied)


def test_a_search_that_was_copied_past_its_checks():
    with pytest.raises(ConfigurationError, match="temperature"):
        InferenceGuard.from_pretrained("tiny-beaver", search=SearchConfig().model_copy(update={"temperature": NAN}))


@pytest.mark.parametrize("value", NEVER)
@pytest.mark.parametrize("name", ["limit", "discount"])
def test_default_budgets_of_judges_of_ones_own(tmp_path, name, value):
    class Own:
        name = "own"
        default_accounting, default_limit, default_discount = "worst", 0.0, 1.0

        def score(self, prompts, responses, *, finished=None):
            return [0.0] * len(responses)

    judge = Own()
    setattr(judge, f"default_{name}", value)
    folders = save_tiny(tmp_path)
    with pytest.raises(ConfigurationError, match=name):
        InferenceGuard.from_pretrained(folders["policy"], cost_model=judge, prompt_format="beaver", device="cpu")


JSON_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999"]


@pytest.mark.parametrize("number", JSON_NUMBERS)
@pytest.mark.parametrize("name", ["temperature", "top_p", "candidates", "beams", "block_tokens", "tries", "max_tokens"])
def test_over_http(guard, name, number):
    body = json.dumps({"messages": [{"role": "user", "content": "Go."}]})[:-1] + f', "{name}": {number}}}'
    answer = TestClient(create_app(guard)).post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)


COMMANDS = {
    "calibrate": ["judge-limit", "target", "confidence", "limits"],
    "evaluate": ["judge-limit", "multiplier", "budget", "candidates"],
    "generate": ["budget", "temperature", "timeout"],
    "serve": ["timeout"],
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(("command", "option"), [(c, o) for c, options in COMMANDS.items() for o in options])
def test_on_the_command_line(command, option, value, tmp_path, monkeypatch, capsys):
    if (option, value) == ("timeout", "inf"):
        return
    positional = ["hello"] if command == "generate" else []
    out = ["--out", str(tmp_path / "out")] if command in ("calibrate", "evaluate") else []
    monkeypatch.setattr(sys, "argv", ["inferenceguard", command, *positional, *out, f"--{option}={value}"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nan", "1,inf", "-inf", "1e999", "16,,2", "", "NaN"])
def test_lists_of_numbers(text):
    with pytest.raises(ConfigurationError, match="limits is"):
        numbers(text, "limits")


@pytest.mark.parametrize("text", ["16.5", "0", "-4", "nan", "inf", "1e400", "1025"])
def test_lists_of_counts(text):
    with pytest.raises(ConfigurationError, match="candidates is"):
        counts(text, "candidates", most=1024)


def calibrated(**changes):
    given = {"target": 0.1, "confidence": 0.9, "judge_limit": 0.0, "seed": 0, **changes}
    return calibrate(
        [{"limit": 1.0}], lambda setting: Tally(100, 0, 0), lambda setting: {}, prompts=["a"], judge="j", **given
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("target", "confidence", "judge_limit") for value in NEVER]
    + [("target", 0.0), ("target", 1.0), ("confidence", 2.0), ("seed", -1)],
)
def test_a_calibration(name, value):
    assert calibrated().certificate
    with pytest.raises(ConfigurationError, match=name):
        calibrated(**{name: value})


def judge(prompts, responses):
    return [0.0] * len(responses)


@pytest.mark.parametrize("value", NEVER)
def test_everything_else_that_is_compared_or_multiplied(guard, value, tmp_path):
    cost = {"accounting": "cumulative", "lowest": 1.0, "highest": 2.0, "scales": (1.0,)}
    scores = tiny_scores(byte_tokenizer(), "cost")
    doors = [
        lambda: Verdicts(CallableJudge(judge), value),
        lambda: Verdicts.of(CallableJudge(judge), value),
        lambda: feasibility(100, target=value, confidence=0.9),
        lambda: feasibility(100, target=0.1, confidence=value),
        lambda: upper_bound(1, 10, value),
        lambda: lower_bound(1, 10, value),
        lambda: interval(1, 10, confidence=value),
        lambda: Context(guard, multiplier=value),
        lambda: Context(guard, penalty=value),
        lambda: Context(guard, weight=value),
        lambda: ScoreJudge(scores.model, scores.tokenizer, batch_size=value),
        lambda: ScoreJudge(scores.model, scores.tokenizer, max_tokens=value),
        lambda: RolloutConfig(responses=value),
        lambda: RolloutConfig(batch=value),
        lambda: RolloutConfig(seed=value),
        *[lambda name=name: CriticCost(**{**cost, name: value}) for name in ("lowest", "highest", "discount")],
        lambda: CriticCost(**{**cost, "scales": (1.0, value)}),
        lambda: CriticConfig(hidden_size=4, width=value, costs=(CriticCost(**cost),)),
        *[lambda name=name: TrainingCost(**{name: value}) for name in ("limit", "discount")],
        lambda: TrainingCost(budget_range=(1.0, value)),
        *[
            lambda name=name: CriticTrainingConfig(**{name: value})
            for name in set(CriticTrainingConfig.model_fields) - {"costs", "reading", "recalls"}
        ],
        *[lambda name=name: SafetyBudget(**{name: value}) for name in ("limit", "discount")],
        *[lambda name=name: SearchConfig(**{name: value}) for name in SEARCH],
        lambda: load_prompts(tmp_path / "p.txt", limit=value),
    ]
    (tmp_path / "p.txt").write_text("a\nb\n")
    passed = []
    for number, door in enumerate(doors):
        with contextlib.suppress(ValueError):  # typed errors of settings are ValueErrors, pydantic's too
            passed.append((number, door()))
    assert passed == []


@pytest.mark.parametrize("value", [0, -3])
def test_limits_of_prompts_are_counts(tmp_path, value):
    (tmp_path / "p.txt").write_text("a\nb\n")
    with pytest.raises(ConfigurationError, match="limit is"):
        load_prompts(tmp_path / "p.txt", limit=value)


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
@pytest.mark.parametrize("value", [0, -3])
def test_so_they_are_of_the_bundled_prompts(command, value, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["inferenceguard", command, "--out", str(tmp_path / "out"), f"--limit={value}"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--limit" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["lowest", "highest", "scales", "discount"])
def test_a_critics_file(tmp_path, field):
    from critic_models import bundled

    source = bundled.path("tiny-beaver-critic")
    content = json.loads((source / "config.json").read_text())
    content["critic"]["costs"][0][field] = [NAN] if field == "scales" else NAN
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    with pytest.raises(ModelLoadError, match=field):
        LatentCritic.from_pretrained(tmp_path)


def test_a_guard_llms_least_mass():
    for value in NEVER:
        with pytest.raises((ConfigurationError, InferenceGuardError)):
            GuardJudge(tiny_policy(), byte_tokenizer(), template="{prompt}{response}", min_mass=value)


def tiny_policy():
    from tests.kit.tiny import tiny_llama

    return tiny_llama(byte_tokenizer())


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e-5, 1e30, 1e308])
@pytest.mark.parametrize("penalty", [1e-300, 1.0, 1e300])
def test_extreme_but_finite_settings_answer_or_fail_typed(temperature, penalty):
    from tests.kit.tiny import tiny_guard

    try:
        result = tiny_guard().generate("Go.", temperature=temperature, repetition_penalty=penalty, max_tokens=4)
    except InferenceGuardError:
        return
    assert result.blocked or math.isfinite(result.cost)
