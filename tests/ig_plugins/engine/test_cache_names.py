"""Models call their cache by several names, and transformers changes them: each is told its own, and no other."""

import inspect

import pytest
import torch

from ig_plugins.engine import TreeModel
from ig_plugins.engine.forward.caches import CACHE_NAMES, cache_name


class Named(dict):
    """An output whose parts are attributes, too."""

    def __getattr__(self, name):
        return self.get(name)

    def __getitem__(self, part):
        return super().__getitem__([*self][part] if isinstance(part, int) else part)


def renamed(model, name):
    """The model, whose decoder calls its cache so from now on and knows no other name; what it was given."""
    decoder, given = model.model, []
    own = decoder.forward
    before = cache_name(inspect.signature(own).parameters)

    def forward(*args, use_cache=None, **inputs):
        cache = inputs.pop(name, None)
        assert not any(inputs.pop(other, None) is not None for other in CACHE_NAMES)
        given.append(cache)
        output = own(*args, use_cache=use_cache, **{before: cache}, **inputs)
        found = {"last_hidden_state": output.last_hidden_state, before: output.get(before), name: output.get(before)}
        return Named(found)  # the old name as well: its head reads that

    parameters = [
        each.replace(name=name) if each.name == before else each for each in inspect.signature(own).parameters.values()
    ]
    forward.__signature__ = inspect.Signature(parameters)
    decoder.forward = forward
    return model, given


@pytest.mark.parametrize("name", CACHE_NAMES)
@pytest.mark.parametrize("path", ["segments", "masked", "portable"])
def test_a_model_is_told_the_name_that_it_has(make_model, path, name):
    def lanes(model):
        session = TreeModel.attach(model, backend=path).prefill([[5, 6, 7]], lanes=2, block=2, max_new=4)
        session.fork(torch.tensor([[0, 0]]))
        session.extend(torch.tensor([[8, 10]]), torch.tensor([[True, True]]))
        return session.lane_hidden

    model, given = renamed(make_model("llama", seed=1), name)
    assert torch.allclose(lanes(model), lanes(make_model("llama", seed=1)), atol=1e-5)
    assert any(cache is not None for cache in given)


def test_the_fused_forward_leaves_what_it_does_not_know_to_the_models_own(make_model):
    """A cache that is not the engine's, under the name that this release of transformers has for it."""
    model = make_model("llama")
    tree, ids = TreeModel.attach(model), torch.tensor([[5, 6, 7]])
    assert tree.body.fused is not None
    with torch.inference_mode(), tree.body.fused.in_use():
        first = model.model(input_ids=ids, use_cache=True)
        cache = first[tree.body.cache_name]
        second = model.model(input_ids=torch.tensor([[8]]), use_cache=True, **{tree.body.cache_name: cache})
    assert cache.get_seq_length() == 4
    with torch.inference_mode():
        whole = model.model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False)
    assert torch.allclose(second.last_hidden_state[0, -1], whole.last_hidden_state[0, -1], atol=1e-5)
