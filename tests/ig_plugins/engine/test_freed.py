"""Keys and values are freed at once when nobody needs them: on a GPU nobody waits for the garbage collector."""

import gc
import weakref

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ig_plugins.engine import TreeModel


@pytest.fixture
def no_collector():
    """Only reference counts free memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("path", ["segments", "masked"])
def test_a_sessions_tensors_go_with_the_session(path, no_collector):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    tree = TreeModel.attach(LlamaForCausalLM(config).eval(), backend=path)
    session = tree.prefill([[1, 2, 3]], lanes=4, block=4, max_new=8)
    session.fork(torch.zeros(1, 4, dtype=torch.long))
    session.extend(torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 4, dtype=torch.bool))
    session.select(torch.tensor([[0, 1]]))
    held = [weakref.ref(session), weakref.ref(session.backend), weakref.ref(session.backend.cache)]
    del session
    assert [ref() for ref in held] == [None, None, None]
