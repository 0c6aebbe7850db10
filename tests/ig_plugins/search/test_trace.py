"""A trace says what the search did, changes nothing about it, and is nowhere but where it was asked for."""

import json
import logging
import time

import pytest
import torch

from critic_models.safety import SafetyBudget
from ig_plugins import GuardResult, InferenceGuard
from ig_plugins.search import Capacity
from ig_plugins.search.trace import Recorder, recorder, seen
from ig_plugins.server import create_app
from tests.ig_plugins.search.test_adaptive import LONG, adaptive_guard, policy_that_counts, sure_until
from tests.ig_plugins.search.test_critic import ANSWERS, WRONG, Foresees, constant, policy_that_knows, with_critic
from tests.kit.guards import MARKER, make_guard
from tests.kit.tiny import tiny_guard, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

torch.set_num_threads(1)
CUMULATIVE = SafetyBudget(limit=6.0, discount=0.98)
HALF = {f"{letter} {end}": 0.25 for letter in "ab" for end in ("calm end.", f"{MARKER} end.")}


def guards():
    """Searches of every kind, by name."""
    tokenizer = byte_tokenizer()
    first, second = tiny_scores(tokenizer, "cost"), tiny_scores(tokenizer, "cost", seed=7)
    worst = SafetyBudget(limit=8.0, accounting="worst")
    critic = Foresees(constant(2.0), constant(1.0))
    return {
        "tokens": tiny_guard(costs={"first": first}, budgets=[CUMULATIVE], tries=3),
        "two costs": tiny_guard(costs={"first": first, "second": second}, budgets=[CUMULATIVE, worst]),
        "texts": make_guard(ANSWERS, block_tokens=4),
        "no reward": make_guard(ANSWERS, block_tokens=4, reward=None),
        "critic": with_critic(make_guard(policy=policy_that_knows(ANSWERS), block_tokens=4), critic),
        "critic, no reward": with_critic(
            make_guard(policy=policy_that_knows(ANSWERS), block_tokens=4, reward=None), critic
        ),
        "wrong critic": with_critic(
            make_guard(policy=policy_that_knows(ANSWERS), block_tokens=4), WRONG["the opposite"]
        ),
        "adaptive": adaptive_guard({}, sure_until(8), policy=policy_that_counts(LONG)),
        "nothing safe": make_guard({f"{MARKER} one.": 0.5, f"{MARKER} two.": 0.5}, block_tokens=8, tries=3),
        "stop": make_guard(ANSWERS, block_tokens=4, stop=["answer"]),
        "long": make_guard({f"{word} schöne Wörter — {word * 60}.": 0.5 for word in "ab"}, block_tokens=7),
    }  # fmt: skip


@pytest.fixture(scope="module", params=list(guards()))
def guard(request):
    return guards()[request.param]


def answered(guard, seed=0, **options):
    result = guard.generate("Tell me.", seed=seed, trace=True, **options)
    assert result.trace is not None
    return result, result.trace


def text_of(lanes):
    """What the lanes of a path say together."""
    text = ""
    for lane in lanes:
        text = text[: len(text) - lane.takes_back] + lane.text
    return text


def path(trace):
    """The lanes of the answer, each with its try, from the first block on."""
    found, place = [], trace.answer
    while place is not None:
        attempt = trace.tries[place[0]]
        (lane,) = [lane for lane in attempt.lanes if lane.lane == place[1]]
        found.append((attempt, lane))
        place = attempt.beams[lane.beam]
    return found[::-1]


@pytest.mark.parametrize("seed", range(3))
def test_the_answer_is_the_same_with_and_without(guard, seed):
    plain = guard.generate("Tell me.", seed=seed)
    result, _ = answered(guard, seed)
    assert plain.trace is None
    same = {"trace": None, "seconds": plain.seconds}
    assert result.model_copy(update=same) == plain  # text, figures, ledger, usage: judges were not asked once more
    streamed = list(guard.stream("Tell me.", seed=seed, trace=True))[-1].result
    assert streamed.trace.model_copy(update={"tries": ()}) == result.trace.model_copy(update={"tries": ()}) or (
        streamed.blocked  # a stream whose text has left does not begin anew
    )


@pytest.mark.parametrize("seed", range(3))
def test_its_figures_are_the_ledgers(guard, seed):
    result, trace = answered(guard, seed)
    last = max((each.search for each in trace.tries), default=0)
    for block in result.blocks:
        tries = [each for each in trace.tries if (each.search, each.block) == (last, block.index)]
        assert sum(each.sampled for each in tries) == block.candidates
        assert sum(each.tokens for each in tries) == block.tokens
        assert tries[-1].safe == block.safe
        assert sum(not each.narrow for each in tries) == block.tries or tries[-1].narrow
    assert sum(each.tokens for each in trace.tries) == result.usage.candidate_tokens
    for line in trace.costs if not result.blocked else ():
        costs = [point.cost for point in line.points]
        total = sum(costs) if line.accounting == "cumulative" else max(costs)
        assert total == pytest.approx(result.costs[line.name])
        assert line.limit == dict(zip(result.costs, guard.options.budgets, strict=True))[line.name].limit
    if not result.blocked:
        assert min(line.points[-1].state for line in trace.costs) == pytest.approx(result.safety_state)


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_holds_together(guard, seed):
    result, trace = answered(guard, seed)
    assert [each.seconds for each in trace.tries] == sorted(each.seconds for each in trace.tries)
    for number, each in enumerate(trace.tries):
        assert [lane.lane for lane in each.lanes] == list(range(each.sampled))
        assert (each.block == 0) == (each.beams == (None,))
        for place in each.beams if each.block else ():
            before = trace.tries[place[0]]
            assert (before.search, before.block, before.verdict) == (each.search, each.block - 1, "done")
            assert before.lanes[place[1]].fate == "beam"
        assert all(lane.beam < len(each.beams) for lane in each.lanes)
        kept = sum(lane.fate == "beam" for lane in each.lanes)
        assert kept <= (1 if each.narrow else trace.beams)
        if number + 1 < len(trace.tries) and each.verdict in ("again", "wider"):
            after = trace.tries[number + 1]
            assert (after.beams, after.block) == (each.beams, each.block)
            assert kept == 0
    if result.blocked:
        assert trace.answer is None
        assert not any(line.points for line in trace.costs)
    else:
        lanes = [lane for _, lane in path(trace)]
        assert text_of(lanes) == result.text
        assert [lane.fate for lane in lanes] == ["beam"] * (len(lanes) - 1) + ["answer"]


def test_costs_and_states_of_refused_lanes_are_there(guard):
    _, trace = answered(guard)
    lanes = [lane for each in trace.tries for lane in each.lanes]
    budgets = guard.options.budgets
    assert any(lane.score is not None for lane in lanes) == (
        guard.components.reward is not None and any(lane.fate in ("beam", "answer") for lane in lanes)
    )
    for lane in lanes:
        if lane.states is not None and lane.fate in ("beam", "answer", "outranked", "not_drawn", "given_up"):
            assert all(state > 0 or b.accounting == "worst" for state, b in zip(lane.states, budgets, strict=True))
        if lane.fate == "over_budget":
            assert lane.costs is not None
            assert any(state <= 0 for state in lane.states)
    if guard.components.critic is None:
        assert all(lane.foresight is None for lane in lanes)
        assert all(lane.costs is not None for lane in lanes if lane.end != "stop" or lane.fate == "answer")
    else:
        assert all(0 <= lane.foresight <= 1 and lane.value is not None for lane in lanes)


def test_what_is_refused_tried_again_and_begun_anew_is_told():
    result, trace = answered(guards()["nothing safe"])
    assert result.blocked
    assert [(each.search, each.block, each.attempt, each.verdict) for each in trace.tries[:2]] == [
        (0, 0, 0, "again"),
        (0, 0, 1, "again"),
    ]
    assert {each.search for each in trace.tries} == {0, 1, 2}  # M - 1 restarts
    assert [each.verdict for each in trace.tries].count("dead_end") == 3
    assert {lane.fate for each in trace.tries for lane in each.lanes} == {"over_budget", "repeat"}
    assert any(MARKER in lane.text for each in trace.tries for lane in each.lanes)


def test_a_block_that_few_lanes_were_not_enough_for_is_told():
    _, trace = answered(guards()["adaptive"])
    assert [(each.narrow, each.verdict) for each in trace.tries[:4]] == [
        (True, "done"), (True, "done"), (True, "wider"), (False, "done"),
    ]  # fmt: skip
    assert {lane.fate for lane in trace.tries[2].lanes} <= {"doubtful", "repeat"}


def test_a_text_that_all_beams_share_and_the_judges_refuse_is_told():
    sure = Foresees(constant(9.0), constant(0.0))
    guard = with_critic(make_guard({f"{MARKER} and some more words to say": 1.0}, block_tokens=8), sure)
    result, trace = answered(guard)
    assert result.blocked
    (release,) = [each.release for each in trace.tries if each.search == 0 and each.release]
    assert not release.passed
    assert MARKER in release.text
    assert release.states == (-1.0,)


def test_what_left_when_is_what_a_stream_gave():
    guard = guards()["texts"]
    chunks = list(guard.stream("Tell me.", seed=1, trace=True, max_lag=0))
    trace = chunks[-1].result.trace
    released = [each.release.text for each in trace.tries if each.release and each.release.passed]
    assert released
    assert released == [chunk.text for chunk in chunks[:-1]]  # the last one has what left with the end


def test_two_prompts_of_a_batch_have_each_their_own():
    guard = guards()["texts"]
    first, second = guard.generate(["Tell me.", "Tell me more."], seed=3, trace=True)
    assert (first.trace.prompt, second.trace.prompt) == ("Tell me.", "Tell me more.")
    alone = guard.generate("Tell me more.", seed=3, trace=True).trace
    without = [each.model_copy(update={"seconds": 0.0}) for each in alone.tries]
    assert [each.model_copy(update={"seconds": 0.0}) for each in second.trace.tries] == without


def test_answers_to_the_same_question_have_each_their_own():
    guard = guards()["texts"]
    first = guard.prepare("Tell me.", trace=True, seed=1)
    again = first.sibling(1)
    assert isinstance(again.request.watcher, Recorder)
    assert again.request.watcher is not first.request.watcher
    assert guard.prepare("Tell me.").sibling(1).request.watcher is None


def test_a_result_with_a_trace_survives_json(guard):
    result, _ = answered(guard)
    text = result.model_dump_json()
    assert GuardResult.model_validate_json(text) == result
    assert json.loads(text)["trace"]["format"] == 1
    later = text.replace('"trace":{"format":1', '"trace":{"format":2')
    with pytest.raises(ValueError, match=r"trace\.format"):
        GuardResult.model_validate_json(later)


def test_text_that_did_not_pass_is_in_the_trace_alone(caplog):
    guard = make_guard(HALF, block_tokens=12)
    with caplog.at_level(logging.DEBUG):
        result = guard.generate("Tell me.", trace=True)
    assert MARKER in result.trace.model_dump_json()
    assert MARKER not in str(result) + repr(result) + json.dumps(result.report()) + caplog.text
    assert "trace" not in result.report()
    assert MARKER not in result.model_copy(update={"trace": None}).model_dump_json()


def test_the_service_gives_no_trace_to_clients():
    from fastapi.testclient import TestClient

    guard = make_guard(HALF, block_tokens=12, trace=True)  # even where the operator's guard makes them
    client = TestClient(create_app(guard))
    ask = {"messages": [{"role": "user", "content": "Tell me."}]}
    for stream in (False, True):
        answer = client.post("/v1/chat/completions", json={**ask, "stream": stream})
        assert answer.status_code == 200
        assert MARKER not in answer.text
        assert '"trace"' not in answer.text
        assert client.post("/v1/chat/completions", json={**ask, "trace": True}).status_code in (400, 422)


def test_its_size_is_bounded(monkeypatch):
    monkeypatch.setattr(recorder, "LANES", 6)
    monkeypatch.setattr(recorder, "TRIES", 2)
    monkeypatch.setattr(seen, "CHARACTERS", 3)
    result, trace = answered(guards()["texts"])
    assert len(trace.tries) == 2
    assert trace.left_out >= len(result.blocks) - 2
    assert trace.tries[0].sampled == len(trace.tries[0].lanes)
    assert {lane.fate for lane in trace.tries[-1].lanes} <= {"beam", "answer"}
    assert trace.tries[-1].sampled > len(trace.tries[-1].lanes)
    assert max(len(lane.text) for each in trace.tries for lane in each.lanes) == 3
    assert trace.answer is None  # it ended in a block that was left out


@torch.inference_mode()
def test_states_of_lanes_that_are_gone_are_not_held():
    guard = guards()["tokens"]
    request = guard.request("Tell me.", trace=True, seed=0)
    search = guard.components.start_search(Capacity.of([request]), on_release=lambda *_: None, call=lambda ask: ask())
    search.add_rows([request])
    while search.rows:
        search.step()
        held = {*request.watcher._beams, *(step for step, _ in request.watcher._answers)}
        waiting = len(search.rows[0].finished) if search.rows else 0
        assert not search.rows or 0 < len(held) <= guard.search.beams + waiting


def test_a_request_that_starts_anew_forgets_what_it_saw():
    guard = guards()["texts"]
    request = guard.request("Tell me.", trace=True, seed=0)
    assert isinstance(request.watcher, Recorder)
    request.watcher._left_out = 5
    request.rewind()
    assert request.watcher._left_out == 0


def test_nobody_is_told_where_nobody_watches(monkeypatch):
    """What tracing costs when it is off: one look a row and block whether somebody watches."""
    called = []
    monkeypatch.setattr(Recorder, "judged", lambda *args, **options: called.append(args))
    monkeypatch.setattr(recorder, "seen_lanes", lambda *args, **options: called.append(args))
    guard = guards()["texts"]
    assert guard.request("Tell me.").watcher is None
    guard.generate("Tell me.", seed=0)
    assert called == []


def test_a_byte_that_lacks_its_rest_is_no_part_of_a_lanes_text():
    guard = make_guard({"Grüße, schöne Größe — überall.": 1.0}, block_tokens=3)
    result, trace = answered(guard)
    assert not result.blocked
    assert text_of(lane for _, lane in path(trace)) == result.text
    assert not any("\ufffd" in lane.text for each in trace.tries for lane in each.lanes)


@pytest.mark.slow
def test_a_trace_takes_little_time():
    guard = InferenceGuard.from_pretrained("tiny-beaver")
    times = {True: [], False: []}
    for seed in range(8):
        for trace in (True, False):
            start = time.perf_counter()
            guard.generate("How do I clean the kettle?", seed=seed, trace=trace)
            times[trace].append(time.perf_counter() - start)
    assert min(times[True]) < 1.5 * min(times[False])


def test_a_trace_that_is_off_costs_one_look_a_block(monkeypatch):
    """Nothing of the recorder runs, so there is nothing to measure."""
    guard = make_guard({"Fine.": 0.5, f"{MARKER} it.": 0.5})
    for name in ("__init__", "rewind", "judged"):
        monkeypatch.setattr(Recorder, name, lambda *_, **__: pytest.fail("nobody looks on"))
    assert guard.generate("How?").text == "Fine."
    with pytest.raises(pytest.fail.Exception):
        guard.generate("How?", trace=True)
