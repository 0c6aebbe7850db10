"""From folders to guards: real loading code on checkpoints that the test makes."""

import gc
import weakref

import pytest
import torch

from ig_plugins import InferenceGuard, SafetyBudget, SearchConfig
from ig_plugins.errors import ConfigurationError, ModelLoadError
from ig_plugins.guard.adapter_fields import GuardFields
from ig_plugins.guard.prompt_request import encode
from tests.kit.guards import cost_of_marker
from tests.kit.observe import until
from tests.kit.tiny import SEARCH, save_tiny

torch.set_num_threads(1)
FORMAT = {"prompt_format": "beaver", "device": "cpu"}
SMALL = SearchConfig(**SEARCH)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models"))


def load(folders, **changes):
    options = {"cost_model": folders["cost"], "reward_model": folders["reward"], "search": SMALL, **FORMAT}
    return InferenceGuard.from_pretrained(folders["policy"], **{**options, **changes})


def test_a_guard_from_folders_answers_as_its_parts_say(folders):
    budget = SafetyBudget(limit=20.0, discount=0.999, accounting="cumulative")
    guard = load(folders, budget=budget, max_tokens=9)
    result = guard.generate("What?")
    assert len(result.token_ids) == 9
    (judge,) = guard.components.costs.values()
    ids = torch.tensor([[*encode(guard.components, "What?", guard.options).prompt_ids, *result.token_ids]])
    with torch.inference_mode():
        plain = judge.score_tokens(ids, torch.ones_like(ids))[0, -9:]
    assert result.cost == pytest.approx(float(plain.sum()), abs=1e-4)
    identity = guard.identity()
    assert identity["models"]["model"] == guard.policy_id == folders["policy"]
    assert identity["search"]["max_new_tokens"] == 9
    assert load(folders, budget=budget, max_tokens=9).identity() == identity


def test_weights_are_loaded_once_and_freed_when_nobody_holds_them(folders):
    first, second = load(folders), load(folders)
    assert first.components.policy is second.components.policy
    assert first.components.reward is second.components.reward
    assert list(first.components.costs.values()) == list(second.components.costs.values())
    first.generate("Go.", max_tokens=3)
    watches = [weakref.ref(first.components.policy.tree.body.model), weakref.ref(first.components.reward)]
    del first
    gc.collect()
    assert all(watch() is not None for watch in watches)
    del second

    def freed():
        gc.collect()
        return [watch() for watch in watches] == [None, None]

    until(freed)  # the worker's thread lets go a moment after the answer


def test_a_callable_as_cost(folders):
    guard = load(folders, cost_model=cost_of_marker, reward_model=None)
    assert guard.budget == SafetyBudget(limit=0.0, discount=1.0, accounting="worst")
    result = guard.generate("Go.", max_tokens=4)
    assert result.costs == {"cost_of_marker": -1.0}
    assert result.reward is None
    strict = load(folders, cost_model=lambda p, r: [1.0] * len(r), reward_model=None)
    assert strict.generate("Go.", max_tokens=4).blocked


def test_several_costs_of_one_name_are_told_apart(folders):
    guard = load(folders, cost_model=[cost_of_marker, cost_of_marker], budget=[0.0, 1.0])
    assert list(guard.components.costs) == ["cost_of_marker", "cost_of_marker'"]
    assert [budget.limit for budget in guard.options.budgets] == [0.0, 1.0]


def test_what_cannot_be_loaded_says_so(folders, tmp_path):
    with pytest.raises(ConfigurationError, match=r"is no preset, so cost_model is needed: .*presets?: tiny-alpaca"):
        load(folders, cost_model=None)
    with pytest.raises(ConfigurationError, match="a cost model is None"):
        load(folders, cost_model=[None])
    with pytest.raises(ConfigurationError, match="'tiny-beaver' has no variant 'odd'"):
        InferenceGuard.from_pretrained("tiny-beaver:odd")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match=r"has no config\.json, so it is not a model folder"):
        InferenceGuard.from_pretrained(str(tmp_path / "empty"), cost_model=cost_of_marker, **FORMAT)
    with pytest.raises(ConfigurationError, match=r"device is 'gpu'; give one such as 'cuda'"):
        load(folders, device="gpu")
    with pytest.raises(ConfigurationError, match="prompt_format is 'martian'; allowed are"):
        load(folders, prompt_format="martian")
    with pytest.raises(TypeError, match="unknown option 'beam'"):
        load(folders, beam=2)


def test_fields_name_the_same_guard_and_share_its_weights(folders):
    fields = GuardFields(
        model=folders["policy"], cost_model=folders["cost"], reward_model=folders["reward"], max_new_tokens=5, **FORMAT
    )
    assert not fields.is_loaded
    options = fields.call_options(temperature=0.5, stop_sequences=["x"])
    assert options == {"max_tokens": 5, "temperature": 0.5, "stop": ["x"]}
    with pytest.raises(TypeError, match="unknown option 'beam'"):
        fields.call_options(beam=1)
    guard = fields.guard
    # What LangChain makes of a configurable model: the class again, from the fields.
    again = GuardFields(**{**{name: getattr(fields, name) for name in GuardFields.model_fields}, "temperature": 0.1})
    assert again.guard.components.policy is guard.components.policy
    assert again.call_options() == {"max_tokens": 5, "temperature": 0.1}
    assert guard.generate("Go.", **options, seed=1).text == again.guard.generate("Go.", **options, seed=1).text
