"""Guards travel as the names that they were loaded from: to other processes, for Ray, Spark and multiprocessing."""

import multiprocessing
import pickle

import pytest

from critic_models.judges import as_judge
from ig_plugins import InferenceGuard
from ig_plugins.errors import MismatchError
from ig_plugins.guard.promise import Promise

PROMPT = "How do I clean a window?"


def short(prompts, responses):
    """A cost of a module, as a user would write it."""
    return [len(response) / 100 - 1 for response in responses]


def answer(guard, prompt):
    return guard.generate(prompt, seed=7).text


@pytest.fixture(scope="module")
def guard():
    return InferenceGuard.from_pretrained("tiny-alpaca", max_tokens=16, candidates=4, beams=2)


def test_a_pickle_is_names_and_gives_the_same_answers(guard):
    carried = pickle.dumps(guard.with_options(temperature=0.7))
    assert len(carried) < 10_000
    again = pickle.loads(carried)
    assert again.components is guard.components  # in this process they are loaded already
    assert again.options == guard.options.updated(temperature=0.7)
    assert answer(again, PROMPT) == answer(guard.with_options(temperature=0.7), PROMPT)


def test_another_process_answers_alike(guard):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(answer, (guard, PROMPT)) == answer(guard, PROMPT)


def test_functions_travel_by_reference():
    guard = InferenceGuard.from_pretrained("tiny-alpaca", cost_model=short, budget=0.0)
    again = pickle.loads(pickle.dumps(guard))
    assert [judge.name for judge in again.components.costs.values()] == [
        judge.name for judge in guard.components.costs.values()
    ]
    assert answer(again, PROMPT) == answer(guard, PROMPT)


@pytest.mark.parametrize("cost", [lambda p, r: [0.0] * len(r), as_judge(short, name="short", kind="cost")])
def test_what_has_no_name_is_refused(cost):
    guard = InferenceGuard.from_pretrained("tiny-alpaca", cost_model=cost, budget=0.0)
    with pytest.raises(TypeError, match=r"cost_model is an object of type \w+, and pickles carry names"):
        pickle.dumps(guard)


def test_loaded_parts_are_refused(guard):
    with pytest.raises(TypeError, match="made of loaded parts"):
        pickle.dumps(InferenceGuard(guard.components.__class__(**{**vars_of(guard.components), "recipe": None})))


def vars_of(components):
    return {name: value for name, value in vars(components).items() if not name.startswith("_")}


class Stale:
    """A certificate of other models."""

    identity = {"policy": "other"}
    identity_hash = "0"

    def check(self, mine):
        raise MismatchError("made for another guard")


def test_a_certificate_is_held_against_the_models_of_the_other_side(guard):
    carried = pickle.dumps(InferenceGuard(guard.components, guard.options, promise=Promise(Stale(), "refuse")))
    with pytest.raises(MismatchError, match="another guard"):
        pickle.loads(carried)
