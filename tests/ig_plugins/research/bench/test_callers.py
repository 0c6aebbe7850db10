"""The measurements of callers and of adaptive search: what they report follows from what the guards did."""

import pytest
import torch

from ig_plugins.research.bench.adaptive import measure_adaptive
from ig_plugins.research.bench.callers import measure_callers, ways_to_ask
from ig_plugins.research.evaluation.metrics import bootstrap
from tests.ig_plugins.search.test_critic import Foresees, constant
from tests.kit.guards import make_guard
from tests.kit.tiny import tiny_guard

torch.set_num_threads(1)


def test_callers_at_once_share_steps_and_get_the_same_answers():
    guard = make_guard(lambda prompt: {f"You said {prompt.split('USER: ')[1][:12]}": 1.0}, candidates=2, beams=1)
    model, steps = guard.components.policy.tree, {}

    def counted(name, answers):
        def ask(prompts):
            model.steps = 0
            found = answers(prompts)
            steps[name] = model.steps
            return found

        return ask

    ways = {name: counted(name, answers) for name, answers in ways_to_ask(guard).items()}
    found = measure_callers(ways, [f"number {n:02d}." for n in range(16)], repeats=1)
    assert list(found) == ["one after another", "threads", "tasks"]
    assert [figures["other answers"] for figures in found.values()] == [0, 0, 0]
    assert steps["threads"] < steps["one after another"] / 2
    assert steps["tasks"] < steps["one after another"] / 2


def test_other_answers_are_counted():
    ways = {"first": lambda prompts: ["a", "b"], "second": lambda prompts: ["a", "c"]}
    assert measure_callers(ways, ["x", "y"], repeats=1)["second"]["other answers"] == 1


def test_adaptive_search_is_measured_against_unguarded_answers_of_the_same_weights():
    guard = tiny_guard(critic=Foresees(constant(9.0), constant(0.0)), candidates=4, narrow_candidates=1)
    settings = {"full": {"adaptive": "off"}, "adaptive": {"adaptive": "on"}}
    found = measure_adaptive(guard, ["One?", "Two?", "Three?"], settings=settings, unsafe=lambda p, r: len(r) > 0)
    assert list(found) == ["generate", "one lane", "full", "adaptive", "full, other draws"]
    assert found["full, other draws"]["reward"] != found["full"]["reward"]
    assert found["generate"]["time / generate"] == 1
    assert all(0 < figures["tokens"] <= 20 for figures in found.values())
    assert found["adaptive"]["candidate tokens"] < found["full"]["candidate tokens"]
    mean, low, high = found["adaptive"]["reward against full"]
    assert low <= mean <= high
    assert mean == pytest.approx(found["adaptive"]["reward"] - found["full"]["reward"])
    assert found["full"]["unsafe by the verdict"] == 1


def test_one_lane_samples_what_the_search_would_with_one_candidate():
    from ig_plugins.research.bench.adaptive import _one_lane

    guard = tiny_guard(block_tokens=20, candidates=1, beams=1, tries=1, reward=None, costs={"no": lambda p, r: [0.0]})
    for seed in range(3):
        text, tokens, _ = _one_lane(guard, "Go.", seed)
        result = guard.generate("Go.", seed=seed)
        assert (text, tokens) == (result.text, len(result.token_ids))


def test_a_bootstrap_interval_holds_the_mean_and_narrows():
    torch.manual_seed(0)
    few, many = (bootstrap(torch.randn(count, 1).tolist(), seed=0) for count in (20, 2000))
    for mean, low, high in (few, many):
        assert low < mean < high
    assert many[2] - many[1] < (few[2] - few[1]) / 3
