"""Weights never travel: not with copies, not with pickles, not with a stored workflow context."""

import copy
import json
import pickle
import warnings
from pathlib import Path

import llama_index.core
import pytest
import torch
from llama_index.core import Settings
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import CallbackManager
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.workflow import Context, JsonPickleSerializer
from transformers import LlamaConfig, LlamaForCausalLM

from ig_plugins.errors import ModelLoadError
from llama_index.llms.inferenceguard import InferenceGuardLLM
from tests.adapters.llama_index_.guards import hates_mark, scripted_guard
from tests.kit.tokenizer import byte_tokenizer
from tests.kit.tool_caller import tool_caller


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A Llama with 100,000 random weights and a chat template, as on the hub."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = byte_tokenizer(chat=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def llm(checkpoint):
    return InferenceGuardLLM(model=str(checkpoint), cost_model=hates_mark, max_tokens=8, temperature=0.5, device="cpu")


def storages(llm):
    return {weight.data_ptr() for weight in llm.guard.components.policy.tree.body.model.parameters()}


def test_loading_is_lazy_and_by_name(llm):
    assert not llm.is_loaded
    assert llm.to_payload() == {"class_name": "InferenceGuardLLM", "model_name": llm.model}
    assert not llm.is_loaded
    assert llm.complete("hi").raw["usage"]["completion_tokens"] <= 8
    assert llm.is_loaded
    assert 450 < llm.metadata.context_window < 512  # less what the template takes
    assert llm.metadata.num_output == 8


def test_copies_and_namesakes_share_the_weights(llm, checkpoint):
    here = storages(llm)
    namesake = InferenceGuardLLM(model=str(checkpoint), cost_model=hates_mark, device="cpu")
    for other in (copy.copy(llm), copy.deepcopy(llm), llm.model_copy(deep=True), namesake):
        assert storages(other) == here


def test_pickle_is_names_and_loads_the_same_guard(llm):
    here = storages(llm)
    data = pickle.dumps(llm)
    assert len(data) < 3000
    other = pickle.loads(data)
    assert storages(other) == here
    assert other.complete("hi", seed=1).text == llm.complete("hi", seed=1).text
    assert other.temperature == 0.5


def test_dict_round_trip(llm):
    with pytest.raises(TypeError, match="JSON"):
        llm.to_json()  # a function is no JSON: better an error than another cost model
    named = InferenceGuardLLM(model="tiny-alpaca", candidates=4, stop=["."])
    other = InferenceGuardLLM.from_json(named.to_json())
    assert other.to_dict() == named.to_dict()


def test_wrapped_guard_travels_within_the_process_only(monkeypatch):
    from ig_plugins.guard import adapter_fields

    llm = InferenceGuardLLM.from_guard(scripted_guard({"fine": 1.0}), temperature=0.5)
    data = pickle.dumps(llm)
    assert len(data) < 3000
    assert pickle.loads(data).guard is llm.guard
    assert copy.deepcopy(llm).guard is llm.guard
    with pytest.raises(ValueError, match="from_guard"):
        llm.to_dict()
    monkeypatch.setattr(adapter_fields, "_wrapped", {})
    with pytest.raises(ModelLoadError, match="from_guard"):
        pickle.loads(data).complete("hi")


async def test_context_of_an_agent_holds_no_weights():
    llm = InferenceGuardLLM.from_guard(scripted_guard(tool_caller))

    def double(number: int) -> str:
        """Double a number."""
        return f"{number * 2}."

    agent = FunctionAgent(tools=[double], llm=llm)
    context = Context(agent)
    await agent.run(user_msg="double 4", ctx=context)
    await context.store.set("llm", llm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stored = json.dumps(context.to_dict(serializer=JsonPickleSerializer()))
    assert len(stored) < 15_000
    again = Context.from_dict(agent, json.loads(stored), serializer=JsonPickleSerializer())
    assert (await again.store.get("llm")).guard is llm.guard


def test_a_memory_holds_no_tokenizer(monkeypatch):
    """LlamaIndex counts with the model's own tokenizer once its metadata was read, and memories keep what counts."""
    monkeypatch.setattr(llama_index.core, "global_tokenizer", None)
    assert InferenceGuardLLM(model="tiny-beaver").metadata
    memory = ChatMemoryBuffer.from_defaults(token_limit=100)
    data = pickle.dumps(memory)
    assert len(data) < 1000
    assert copy.deepcopy(memory).tokenizer_fn is memory.tokenizer_fn is llama_index.core.global_tokenizer
    assert pickle.loads(data).tokenizer_fn is llama_index.core.global_tokenizer
    monkeypatch.setattr(llama_index.core, "global_tokenizer", str.split)
    assert pickle.loads(data).tokenizer_fn is str.split


def test_settings_and_attribute_assignment(llm):
    before = Settings._llm
    try:
        Settings.llm = llm
        assert Settings.llm is llm
        manager = CallbackManager([])
        Settings.llm.callback_manager = manager
        llm.temperature = 0.7
        assert llm.callback_manager is manager
    finally:
        Settings._llm = before
