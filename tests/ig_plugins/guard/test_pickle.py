"""Guards travel as the names that they were loaded from: to other processes, for Ray, Spark and multiprocessing."""

import gc
import importlib
import multiprocessing
import pickle
import sys

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


STRICT, LAX = (f"def unsafe(prompts, responses):\n    return [{score}] * len(responses)\n" for score in (1.0, -1.0))


@pytest.fixture
def folders(tmp_path):
    """Two folders with a function of the same name, which refuses everything in the first and nothing in the other."""
    found = [tmp_path / "one", tmp_path / "two"]
    for folder, code in zip(found, (STRICT, LAX), strict=True):
        folder.mkdir()
        (folder / "rules_here.py").write_text(code)
    return found


def named(cost="rules_here.py:unsafe"):
    return InferenceGuard.from_pretrained("tiny-alpaca", cost_model=cost, max_tokens=4, candidates=2, beams=1)


@pytest.mark.parametrize("cost", ["rules_here.py:unsafe", "rules_here:unsafe", "function"])
def test_a_function_that_is_another_there_is_refused(folders, monkeypatch, cost):
    def arrive(folder):
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "rules_here", raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("rules_here").unsafe

    function = arrive(folders[0])
    held = pickle.dumps(named(function if cost == "function" else cost))
    assert pickle.loads(held).generate(PROMPT).blocked
    arrive(folders[1])
    gc.collect()
    with pytest.raises(MismatchError, match=r"rules_here.*another content here") as refused:
        pickle.loads(held)
    assert "cost_model" in str(refused.value)
    del refused  # which holds the parts that were loaded
    (folders[1] / "rules_here.py").write_text(STRICT)
    arrive(folders[1])
    gc.collect()
    assert pickle.loads(held).generate(PROMPT).blocked


def test_the_same_name_from_another_folder_is_another_judge(folders, monkeypatch):
    """A guard that is still held has its parts shared with others of the same names."""
    monkeypatch.chdir(folders[1])
    lax = named()
    assert not lax.generate(PROMPT).blocked
    monkeypatch.chdir(folders[0])
    assert named().generate(PROMPT).blocked
    monkeypatch.chdir(folders[1])
    (folders[1] / "rules_here.py").write_text(STRICT)
    assert named().generate(PROMPT).blocked
    assert not lax.generate(PROMPT).blocked


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
