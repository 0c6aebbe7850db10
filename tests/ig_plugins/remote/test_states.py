"""A critic on a server's hidden states: the same numbers as here, and no text where the states are not right."""

import pytest
import torch

from critic_models import bundled
from critic_models.critic import CriticBinding, CriticConfig, CriticCost, LatentCritic, tokenizer_hash
from ig_plugins import (
    ConfigurationError,
    InferenceGuardError,
    MismatchError,
    RemoteReplyError,
    RemoteUnavailableError,
    SafetyBudget,
    UnsupportedModelError,
)
from ig_plugins.engine import Sampler
from ig_plugins.errors import ContextLengthError
from ig_plugins.guard.policies import load_policy
from ig_plugins.remote.session import RemoteSession
from tests.ig_plugins.remote.conftest import QUESTION, TOKENIZER
from tests.kit.fake_engine import hangs_up, says, stalls, status
from tests.kit.observe import LeakScanner
from tests.kit.state_lies import LIES

CRITIC = "bundled:tiny-alpaca-critic"
KINDS = ("vllm", "llamacpp")
BUDGET = SafetyBudget(accounting="cumulative", limit=10.0)
MODELS = {"cost_model": "tiny-alpaca", "reward_model": "tiny-alpaca", "budget": BUDGET}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("INFERENCEGUARD_REMOTE_KEY", "K1")


@pytest.fixture
def guided(engine, guarded):
    """A guard with the bundled critic, over an engine that gives states."""

    def make(kind="vllm", server=None, **options):
        server = server or engine(kind, states=True)
        return guarded(server, critic=CRITIC, **{**MODELS, **options}), server

    return make


def block_of(guard, prompt, *, lanes=6, block=12, sampler=Sampler()):  # noqa: B008
    policy = guard.components.policy
    session = RemoteSession(policy.tree, [prompt])
    uniforms = torch.rand(1, lanes, block, dtype=torch.float64)
    parents = torch.zeros(1, lanes, dtype=torch.long)
    return session, session.sample(
        parents, samplers=[sampler], uniforms=uniforms, max_tokens=[block], stop_ids=policy.stop_ids
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("echoes", [True, False])
def test_a_blocks_states_are_those_of_the_model(guided, engine, kind, echoes):
    """At every lane's last token and summed over its block; the token that ends an answer counts, as it does here."""
    guard, _ = guided(server=engine(kind, states=True, echoes_stop=echoes))
    model = load_policy(TOKENIZER).engine.body.model.base_model
    prompt, ended = list(guard.request(QUESTION).prompt_ids), 0
    for _ in range(12):
        session, block = block_of(guard, prompt)
        for lane, length in enumerate(block.lengths[0].tolist()):
            ids = block.tokens[0, lane, :length].tolist()
            with torch.inference_mode():
                states = model(torch.tensor([[*prompt, *ids]]), use_cache=False).last_hidden_state[0, len(prompt) :]
            assert torch.allclose(block.hidden[0, lane], states[-1], atol=1e-4)
            assert torch.allclose(block.total[0, lane], states.sum(dim=0), atol=1e-3)
            ended += bool(block.finished[0, lane]) and length < 12
        assert session.rows == 1
        prompt += block.tokens[0, 0, : int(block.lengths[0, 0])].tolist()
        if ended:
            break
    assert ended, "no answer ended in the middle of a block"


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_the_critic_says_what_it_says_here(guided, kind):
    from ig_plugins import InferenceGuard

    guard, _ = guided(kind, load_options={"page": 0})
    local = InferenceGuard.from_pretrained(
        "tiny-alpaca", stratified=False, retry_penalty=0.0, candidates=8, beams=2, block_tokens=8, max_tokens=24,
        budget=BUDGET,
    )  # fmt: skip
    options = {"temperature": 0, "trace": True, "adaptive": "off"}
    theirs, ours = guard.generate(QUESTION, **options), local.generate(QUESTION, **options)
    assert theirs.token_ids == ours.token_ids
    mine, its = (
        [(lane.tokens, lane.foresight, lane.value) for each in result.trace.tries for lane in each.lanes]
        for result in (theirs, ours)
    )
    assert len(mine) == len(its) >= 3
    for one, other in zip(mine, its, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_without_a_critic_nothing_is_asked_of_states(engine, guarded):
    for kind in KINDS:
        server = engine(kind, states=True)
        assert guarded(server).generate(QUESTION).text
        assert server.state_bodies == []
        assert all("vllm_xargs" not in body for body in server.bodies)


REFUSED = {
    "vllm": [
        ({}, "gives no hidden states.*status 404.*VLLM_PLUGINS=inferenceguard and --api-key"),
        ({"states": True, "state_key": ""}, "gives no hidden states.*given only by a server with a key"),
        ({"states": True, "state_key": "K2"}, "wants a key; put it into INFERENCEGUARD_REMOTE_KEY"),
    ],
    "llamacpp": [({}, "gives no hidden states.*status 404.*--embeddings --pooling none --ubatch-size")],
}


@pytest.mark.parametrize(("kind", "given", "said"), [(kind, *each) for kind in KINDS for each in REFUSED[kind]])
def test_a_server_without_states_is_refused_with_the_reason(engine, guarded, kind, given, said):
    with pytest.raises(UnsupportedModelError, match=said):
        guarded(engine(kind, **given), critic=CRITIC)
    assert guarded(engine(kind, **given)).generate(QUESTION).text


def test_a_critic_of_another_policy_is_refused(engine, guarded, guided):
    with pytest.raises(MismatchError, match="policy: critic 'bundled:tiny-beaver'"):
        guarded(engine(states=True), critic="bundled:tiny-beaver-critic", **MODELS)
    guard, _ = guided(tokenizer="tiny-alpaca")  # the preset whose policy it is
    assert guard.components.critic is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_leaves_room_for_what_states_need(guided, engine, kind):
    guard, server = guided(server=engine(kind, states=True, batch=60))
    assert guard.context == (60 if kind == "llamacpp" else server.policy.tree.context - 1)
    if kind == "llamacpp":
        with pytest.raises(ContextLengthError, match="longer --ubatch-size"):
            guard.generate(QUESTION, max_tokens=60)


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_are_not_the_blocks_are_not_used(guided, kind):
    guard, server = guided(kind)
    for name, lie in LIES[kind].items():
        server.state_plan = lambda number, body, lie=lie: lambda handler, reply: handler.send(200, lie(reply))
        seen = []
        with LeakScanner() as scanner, pytest.raises(RemoteReplyError) as refused:
            seen.extend(guard.stream(QUESTION, timeout=60, temperature=1.5))
        assert seen == [], name
        scanner.see_exception(refused.value)
        assert scanner.find("clean a window") == [], name
    server.state_plan = lambda number, body: None
    assert guard.generate(QUESTION).text


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_no_json_or_no_end_are_not_used(guided, kind):
    guard, server = guided(kind)
    for raw in (b"<html>", b"[" * 100_000, b" " * 50_000_000):
        server.state_plan = lambda number, body, raw=raw: says(raw)
        with pytest.raises(RemoteReplyError):
            guard.generate(QUESTION, timeout=60)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_answered_is_asked_again_and_given_up_in_the_end(guided, kind):
    guard, server = guided(kind, load_options={"attempts": 2})
    for fault in (hangs_up, status(500), status(503)):
        server.state_plan = lambda number, body, fault=fault: fault if number % 2 else None
        server.state_bodies[1:] = []
        assert guard.generate(QUESTION, max_tokens=8, candidates=1, beams=1).text
    server.state_plan = lambda number, body: status(500)
    with pytest.raises(RemoteUnavailableError):
        guard.generate(QUESTION)
    server.state_plan = lambda number, body: stalls
    with pytest.raises(InferenceGuardError, match=r"timeout|deadline|seconds"):
        guard.generate(QUESTION, timeout=1.0)
    server.state_plan = lambda number, body: None
    assert guard.generate(QUESTION).text


def test_an_expired_buffer_costs_the_answer(guided):
    guard, server = guided()
    server.buffers._seconds = -1.0
    with pytest.raises(RemoteReplyError, match="INFERENCEGUARD_STATES_MIB"):
        guard.generate(QUESTION)


@pytest.fixture
def worst_critic(tmp_path):
    """A critic, as good as none, for the worst-case budget that the command line's cost models have."""
    cost = CriticCost(accounting="worst", lowest=0.0, highest=0.0, scales=(0.5,))
    binding = CriticBinding(
        policy_id=TOKENIZER, policy_revision="tiny-1", tokenizer_hash=tokenizer_hash(load_policy(TOKENIZER).tokenizer)
    )
    LatentCritic(CriticConfig(hidden_size=128, width=16, costs=(cost,), recalls=True), binding).save_pretrained(
        tmp_path / "critic"
    )
    return tmp_path / "critic"


def test_the_commands_take_a_critic(engine, worst_critic, tmp_path):
    """Its revision is held against the version that the operator says is served."""
    pytest.importorskip("scipy")
    from typer.testing import CliRunner

    from ig_plugins.cli import app

    server, prompts = engine(states=True), tmp_path / "prompts.txt"
    prompts.write_text(f"{QUESTION}\nHow do I bake bread?\n")

    def evaluate(version):
        return CliRunner().invoke(app(), [str(each) for each in (
            "evaluate", "--out", tmp_path / version, "--model", server.address, "--tokenizer", TOKENIZER,
            "--cost-model", "bundled:tiny-cost", "--reward-model", "bundled:tiny-reward", "--critic", worst_critic,
            "--load-option", f"version={version}", "--methods", "inferenceguard-critic", "--seeds", 1,
            "--prompts", prompts, "--candidates", 4, "--max-tokens", 12, "--judge", bundled.path("tiny-cost"),
        )])  # fmt: skip

    done = evaluate("tiny-1")
    assert done.exit_code == 0, (done.output, done.exception)
    assert len(server.state_bodies) > 2
    refused = evaluate("tiny-2")
    assert refused.exit_code != 0
    assert "revision: critic 'tiny-1', guard 'tiny-2'" in f"{refused.output} {refused.exception}"


@pytest.mark.parametrize("command", ["generate", "trace"])
def test_the_commands_for_one_answer_take_a_critic(engine, worst_critic, tmp_path, command):
    pytest.importorskip("jinja2")
    from typer.testing import CliRunner

    from ig_plugins.cli import app

    server = engine(states=True)
    out = {"generate": ["--json"], "trace": ["--json", tmp_path / "out.json"]}[command]

    def ask(*more):
        return CliRunner().invoke(app(), [str(each) for each in (
            command, QUESTION, "--model", server.address, "--tokenizer", TOKENIZER, "--cost-model", "bundled:tiny-cost",
            "--critic", worst_critic, "--load-option", "version=tiny-1", "--candidates", 4, "--max-tokens", 12,
            *out, *more,
        )])  # fmt: skip

    done = ask()
    assert done.exit_code == 0, (done.output, done.exception)
    assert len(server.state_bodies) > 2
    assert "give one of the two" in str(ask("--no-critic").exception)


def test_probes_stay_refused_where_states_are_given(guided):
    with pytest.raises(ConfigurationError, match="neither states nor logits of a text; probes"):
        guided(cost_model="bundled:smollm2-probe", budget=None)


def test_both_adapters_take_a_critic(engine):
    pytest.importorskip("langchain_core")
    from langchain_inferenceguard import ChatInferenceGuard

    server = engine(states=True)
    fields = {
        "tokenizer": TOKENIZER, "prompt_format": "beaver", "critic": CRITIC, "max_tokens": 16, **MODELS
    }  # fmt: skip
    assert ChatInferenceGuard(model=server.address, **fields).invoke(QUESTION).content
    assert len(server.state_bodies) > 1
    pytest.importorskip("llama_index.core")
    from llama_index.llms.inferenceguard import InferenceGuardLLM

    before = len(server.state_bodies)
    assert InferenceGuardLLM(model=server.address, **fields).complete(QUESTION).text
    assert len(server.state_bodies) > before
