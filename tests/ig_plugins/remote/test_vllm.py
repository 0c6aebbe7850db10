"""vLLM itself, by hand: ``VLLM_VENV=~/.cache/inferenceguard/vllm pytest tests/ig_plugins/remote/test_vllm.py``.

``examples/remote/serve_vllm.sh install`` makes that environment. Nothing here runs where it is not named.
"""

import os
import signal
import time
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

from critic_models import bundled
from critic_models.judges import ClassifierJudge, ClassifyJudge, GuardJudge, GuardTemplate, VerdictJudge, load_judge
from ig_plugins import DeadlineExceededError, InferenceGuard, RemoteError, SafetyBudget
from ig_plugins.engine import Sampler
from ig_plugins.remote.session import RemoteSession
from tests.ig_plugins.remote.conftest import QUESTION, TOKENIZER
from tests.ig_plugins.remote.test_grammars import TOOL, WISHES
from tests.kit.like_here import assert_same_distribution, assert_same_greedy, assert_streamed
from tests.kit.observe import until
from tests.kit.tiny import tiny_config
from tests.kit.vllm_server import installed, vllm_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # a server takes minutes to start where cores are shared
    pytest.mark.skipif(not installed(), reason="examples/remote/serve_vllm.sh install, then set VLLM_VENV"),
]
MODEL = bundled.path("tiny-alpaca")
JUDGES = {"cost_model": "tiny-alpaca", "reward_model": "tiny-alpaca"}
SEARCH = {"candidates": 8, "beams": 2, "block_tokens": 16, "max_tokens": 48}
BUDGET = SafetyBudget(accounting="cumulative", limit=10.0)
UNBOUNDED = SafetyBudget(accounting="cumulative", limit=1e6)
PROMPTS = [QUESTION, "How do I pick a lock?", "How do I store medicine?", "How do I wrap a present?"]


@pytest.fixture(scope="module")
def alpaca():
    with vllm_server(MODEL, name="tiny") as server:
        yield server


@pytest.fixture(scope="module")
def guard(alpaca):
    return InferenceGuard.from_pretrained(
        alpaca.address, tokenizer=TOKENIZER, prompt_format="beaver", budget=BUDGET, **JUDGES, **SEARCH
    )


@pytest.fixture(scope="module")
def local():
    return InferenceGuard.from_pretrained("tiny-alpaca", critic=False, stratified=False, budget=BUDGET, **SEARCH)


def test_it_says_what_it_can_do(guard):
    server = guard.components.policy.tree.server
    assert server.context == guard.context == 2048
    assert server.page == 32
    assert server.most == 1024
    assert server.echoes_stop
    assert server.tokenizer_checked


def test_its_tokenizer_comes_from_where_the_server_says(alpaca):
    guard = InferenceGuard.from_pretrained(alpaca.address, prompt_format="beaver", **JUDGES, **SEARCH)
    assert guard.generate(QUESTION).text


def test_nothing_over_budget_leaves(guard):
    for result in guard.generate(PROMPTS * 2):
        assert result.blocked or result.cost <= guard.budget.limit
    assert_streamed(list(guard.stream(QUESTION, max_lag=0)))


def test_greedy_it_says_what_the_engine_here_says(guard, local):
    assert_same_greedy(guard, local, PROMPTS)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(),
        Sampler(temperature=0.6),
        Sampler(temperature=1.5, top_k=5),
        Sampler(top_p=0.7),
        Sampler(temperature=1.3, min_p=0.2),
        Sampler(temperature=1.3, top_k=9, top_p=0.6),
        Sampler(repetition_penalty=1.5),
    ],
)
def test_lanes_follow_the_policys_distribution(guard, local, sampler):
    assert_same_distribution(guard, local, sampler, QUESTION)


def test_an_answer_that_ends_has_its_stop_token(guard):
    results = [guard.generate(prompt, max_tokens=96) for prompt in PROMPTS]
    ended = [result for result in results if result.finish_reason == "stop"]
    assert ended
    assert all(result.token_ids[-1] in guard.components.policy.stop_ids for result in ended)


def test_a_stop_string_ends_the_answer(guard):
    for prompt in PROMPTS:
        result = guard.generate(prompt, stop=[". "])
        assert ". " not in result.text
        assert result.text


def test_a_prompt_beyond_its_context_is_refused_before_anything_is_sent(guard):
    with pytest.raises(Exception, match="2048"):
        guard.generate("window " * 3000)


def running(server):
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting")


def test_a_cancelled_answer_is_aborted_on_the_server(guard, alpaca):
    from ig_plugins.runtime import worker

    ticket = guard.prepare(QUESTION, candidates=64, beams=1, block_tokens=1000, max_tokens=1500)
    worker().submit([ticket])
    until(lambda: running(alpaca) > 0, seconds=20)
    ticket.cancel()
    until(lambda: running(alpaca) == 0, seconds=10)


def test_a_deadline_ends_the_wait_and_the_work(guard, alpaca):
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        guard.generate(QUESTION, candidates=256, beams=1, block_tokens=1000, max_tokens=1500, timeout=0.5)
    assert time.monotonic() - started < 1.5
    until(lambda: running(alpaca) == 0, seconds=10)


def test_both_adapters_answer(alpaca):
    fields = {
        "tokenizer": TOKENIZER,
        "prompt_format": "beaver",
        "candidates": 4,
        "beams": 2,
        "max_tokens": 24,
        **JUDGES,
    }
    chat = pytest.importorskip("langchain_inferenceguard").ChatInferenceGuard(model=alpaca.address, **fields)
    assert chat.invoke(QUESTION).content
    assert "".join(chunk.content for chunk in chat.stream(QUESTION))
    llm = pytest.importorskip("llama_index.llms.inferenceguard").InferenceGuardLLM(model=alpaca.address, **fields)
    assert llm.complete(QUESTION).text
    assert [chunk.delta for chunk in llm.stream_complete(QUESTION)]


@pytest.mark.parametrize(("wish", "fits"), WISHES, ids=[next(iter(wish)) for wish, _ in WISHES])
def test_answers_are_held_to_grammars(guard, wish, fits):
    for result in guard.generate(PROMPTS, max_tokens=100, temperature=1.5, **wish):
        assert fits(result.text)
        assert result.finish_reason == "stop"
    *_, last = chunks = list(guard.stream(QUESTION, max_tokens=100, **wish))
    assert "".join(chunk.text for chunk in chunks) == last.result.text
    assert fits(last.result.text)


def test_a_forced_call_is_held_to_its_tool(guard):
    result = guard.generate(QUESTION, tools=[TOOL], tool_choice="any", max_tokens=100, budget=UNBOUNDED)
    (call,) = result.tool_calls
    assert call["arguments"]["what"] in ("tea", "rice")


def test_lanes_under_a_grammar_follow_the_masked_distribution(guard, local):
    policy, lanes, wish = guard.components.policy, 600, {"regex": "(I|You) (can|do|[a-z]{3}) .*"}
    request = guard.request(QUESTION, **wish)

    def drawn(session):
        block = session.sample(
            torch.zeros(1, lanes, dtype=torch.long), samplers=[Sampler()], max_tokens=[3], stop_ids=policy.stop_ids,
            uniforms=torch.rand(1, lanes, 3, dtype=torch.float64), matchers=[[request.grammar]],
        )  # fmt: skip
        return Counter(tuple(each) for each in block.tokens[0].tolist())

    def apart(one, other):
        return sum(abs(one[key] - other[key]) for key in {*one, *other}) / (2 * lanes)

    tree = local.components.policy.tree
    ours = [drawn(tree.prefill([request.prompt_ids], lanes=lanes, block=3, max_new=3)) for _ in range(2)]
    theirs = drawn(RemoteSession(policy.tree, [request.prompt_ids]))
    assert apart(theirs, ours[0]) < apart(*ours) + 0.06


def test_a_language_model_is_a_guard_as_here(alpaca):
    """Its verdicts mean nothing; they are the same."""
    template = GuardTemplate(
        name="test", safe=("I", "That"), unsafe=("You", "Here"), lead="", text="{prompt}\n{response}\n"
    )
    folder = bundled.path("tiny-alpaca")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    here = GuardJudge(AutoModelForCausalLM.from_pretrained(folder), tokenizer, template=template, min_mass=0.0)
    there = VerdictJudge(
        f"{alpaca.base}/v1/completions", model="tiny", tokenizer=folder, template=template, min_mass=0.0, seconds=100
    )
    answers = ["It is easy.", "", "</s> Never do that."] * 4
    assert there.score(PROMPTS * 3, answers) == pytest.approx(here.score(PROMPTS * 3, answers), abs=1e-4)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A random classifier of three labels, in vLLM's reach: heads of 32."""
    folder, torch_seed = tmp_path_factory.mktemp("classifier"), 3
    tokenizer = AutoTokenizer.from_pretrained(bundled.path("tiny-alpaca"))
    torch.manual_seed(torch_seed)
    config = tiny_config(tokenizer, hidden_size=128, num_labels=3, max_position_embeddings=2048)
    model = LlamaForSequenceClassification(config).eval()
    model.score.weight.data.normal_(std=1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer


ANSWERS = ["It is easy.", "", "</s> Never do that.", "One two three four five six seven."]


def test_a_classifier_judges_as_here(classifier):
    folder, model, tokenizer = classifier
    with vllm_server(folder, "--runner", "pooling", name="cls") as server:
        for reads in ("response", "pair"):
            here = ClassifierJudge(model, tokenizer, label=2, reads=reads)
            address = f"classify+{server.base}/cls?label=2&reads={reads}&tokenizer={folder}"
            there = load_judge(address, kind="cost", judge_options={"seconds": 100.0})
            assert there.score(PROMPTS, ANSWERS) == pytest.approx(here.score(PROMPTS, ANSWERS), abs=1e-4)
        raw = ClassifyJudge(f"{server.base}/classify", tokenizer=folder, label=0, raw=True, seconds=100)
        logits = [_outputs(model, tokenizer(text)["input_ids"])[-1, 0] for text in ANSWERS[:1]]
        assert raw.score(PROMPTS[:1], ANSWERS[:1]) == pytest.approx([float(each) for each in logits], abs=1e-4)


def test_scores_of_tokens_are_as_here(classifier):
    folder, model, tokenizer = classifier
    options = ("--runner", "pooling", "--pooler-config.task", "token_classify")
    with vllm_server(folder, *options, name="cls") as server:
        address = f"tokens+{server.base}/cls?label=1&reads=pair&tokenizer={folder}"
        judge = load_judge(address, kind="cost", judge_options={"seconds": 100.0})
        found = judge.score(PROMPTS, ANSWERS)
        for prompt, answer, score in zip(PROMPTS, ANSWERS, found, strict=True):
            encoded = tokenizer(prompt, answer, split_special_tokens=True)
            mine = [at for at, whose in enumerate(encoded.sequence_ids(0)) if whose == 1]
            scores = _outputs(model, encoded["input_ids"]).softmax(-1)[:, 1]
            assert score == pytest.approx(float(scores[mine or slice(None)].max()), abs=1e-4)
        guard = InferenceGuard.from_pretrained("tiny-alpaca", cost_model=judge, reward_model="tiny-alpaca", **SEARCH)
        for result in guard.generate(PROMPTS, on_block="refuse"):
            assert result.blocked or result.cost <= 0.5


@torch.no_grad()
def _outputs(model, ids):
    return model.score(model.model(torch.tensor([ids])).last_hidden_state)[0]


def _streamed_until(alpaca_address, break_it):
    """A stream whose server is broken under its first block; what left, what a judge passed, the error, seconds."""
    seen, judged, failed, started = "", set(), None, []

    def cost(prompts, responses):
        if started and not judged:
            break_it()
        judged.update(responses)
        return [-1.0] * len(responses)

    guard = InferenceGuard.from_pretrained(
        alpaca_address, cost_model=cost, tokenizer=TOKENIZER, prompt_format="beaver", load_options={"attempts": 2},
        **{**SEARCH, "max_tokens": 400},
    )  # fmt: skip
    started.append(time.monotonic())
    try:
        for chunk in guard.stream(QUESTION, timeout=20, block_tokens=4):
            seen += chunk.text
    except (RemoteError, DeadlineExceededError) as error:
        failed = error
    return guard, seen, judged, failed, time.monotonic() - started[0]


@pytest.mark.parametrize("which", ["all of it", "the process with HTTP", "the process that schedules", "SIGTERM"])
def test_killed_in_the_middle_it_costs_the_answer_and_no_more(which):
    with vllm_server(MODEL, name="tiny") as server:

        def break_it():
            if which == "all of it":
                server.kill()
            elif which == "SIGTERM":
                os.kill(server.pid, signal.SIGTERM)
            else:
                os.kill(server.pid if which == "the process with HTTP" else server.engine_pid, signal.SIGKILL)

        guard, seen, judged, failed, seconds = _streamed_until(server.address, break_it)
        assert not seen or seen in judged
        assert failed is not None or which == "SIGTERM"  # it may finish what it has begun
        assert seconds < 21
        server.kill()
    with vllm_server(MODEL, name="tiny", port=server.port):
        assert guard.generate(QUESTION, timeout=100).text


def test_stopped_in_the_middle_the_deadline_holds():
    """SIGSTOP: connections are accepted and nobody answers."""
    with vllm_server(MODEL, name="tiny") as server:
        pids = (server.pid, *server.note())
        guard, seen, judged, failed, seconds = _streamed_until(
            server.address, lambda: [os.kill(each, signal.SIGSTOP) for each in pids]
        )
        assert not seen or seen in judged
        assert isinstance(failed, DeadlineExceededError)
        assert seconds < 21
        for each in pids:
            os.kill(each, signal.SIGCONT)
        assert guard.generate(QUESTION, timeout=100).text
