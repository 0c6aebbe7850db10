"""Both adapters over one guard, or over one name, hold one set of weights in memory."""

import copy
import gc

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ig_plugins import InferenceGuard
from langchain_inferenceguard import ChatInferenceGuard
from langchain_inferenceguard import InferenceGuardLLM as LangChainLLM
from llama_index.llms.inferenceguard import InferenceGuardLLM
from tests.adapters.llama_index_.guards import hates_mark
from tests.kit.tokenizer import byte_tokenizer

LAYERS, HIDDEN = 3, 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy")
    tokenizer = byte_tokenizer(chat=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=80,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def storages() -> list[int]:
    """The memory of every feed-forward matrix of this shape that lives in the process."""
    gc.collect()
    shape = (80, HIDDEN)
    found = {
        thing.untyped_storage().data_ptr()
        for thing in gc.get_objects()
        if type(thing) is torch.nn.Parameter and tuple(thing.shape) == shape  # isinstance would ask dead weak proxies
    }
    return sorted(found)


def test_one_set_of_weights_for_everybody(folder):
    assert storages() == []
    guard = InferenceGuard.from_pretrained(folder, cost_model=hates_mark, device="cpu", max_tokens=4)
    once = storages()
    assert len(once) == 2 * LAYERS  # gate and up projections
    named = {"model": folder, "cost_model": hates_mark, "device": "cpu", "max_tokens": 4}
    everybody = [
        InferenceGuardLLM.from_guard(guard),
        LangChainLLM.from_guard(guard),
        ChatInferenceGuard.from_guard(guard),
        InferenceGuardLLM(**named),
        ChatInferenceGuard(**named),
    ]
    everybody += [copy.deepcopy(llm) for llm in everybody]
    for llm in everybody:
        answer = llm.complete("hi") if isinstance(llm, InferenceGuardLLM) else llm.invoke("hi")
        assert answer is not None
    assert storages() == once
