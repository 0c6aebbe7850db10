"""Copies share the guard, pickles carry names: both of the class itself and of a framework's habits."""

import copy
import pickle
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from ig_plugins.errors import ModelLoadError
from ig_plugins.guard import adapter_fields
from ig_plugins.guard.adapter_fields import GuardFields
from tests.kit.guards import cost_of_marker, make_guard


class Reinit(BaseModel):
    """A framework base class that unpickles through ``__init__``, as LlamaIndex's does."""

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.__init__(**state["__dict__"])


class Framework(GuardFields, Reinit):
    pass


class Judge(torch.nn.Linear):
    """A judge with weights of its own."""


CLASSES = [GuardFields, Framework]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_wrapped_guard_is_found_again_in_this_process(kind):
    guard = make_guard()
    made = kind.from_guard(guard, temperature=0.5)
    assert made.wraps_guard
    assert not kind(model="tiny-beaver").wraps_guard
    for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made), made.model_copy()):
        assert other.guard is guard
        assert other.temperature == 0.5


@pytest.mark.parametrize("kind", CLASSES)
def test_a_wrapped_guard_of_another_process_is_an_error_and_not_another_guard(kind, monkeypatch):
    data = pickle.dumps(kind.from_guard(make_guard()))
    monkeypatch.setattr(adapter_fields, "_wrapped", {})
    with pytest.raises(ModelLoadError, match="from_guard"):
        pickle.loads(data).guard  # noqa: B018


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", ["cost_model", "reward_model", "critic"])
def test_a_loaded_judge_is_shared_by_copies_and_refused_by_pickle(kind, name):
    judge = Judge(4, 4)
    for given in (judge, [judge]):
        made = kind(model="tiny-beaver", **{name: given})
        assert getattr(copy.deepcopy(made), name) is getattr(made, name)
        with pytest.raises(TypeError, match=f"{name} is an object of type Judge"):
            pickle.dumps(made)


@pytest.mark.parametrize("kind", CLASSES)
def test_names_and_functions_of_modules_travel(kind):
    made = kind(model="some/model", cost_model=[cost_of_marker, "some/cost"], critic=False, max_tokens=7)
    other = pickle.loads(pickle.dumps(made))
    assert other.model_dump() == made.model_dump()
    with pytest.raises(TypeError, match="cost_model"):
        pickle.dumps(kind(model="tiny-beaver", cost_model=lambda prompts, responses: [0.0]))
