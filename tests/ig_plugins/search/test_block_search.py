"""The search itself, driven by hand on policies that can be counted out."""

import pytest
import torch

from critic_models.safety import SafetyBudget
from ig_plugins.search import Answer, Capacity, Request, SearchConfig
from ig_plugins.search.lanes import Row
from ig_plugins.search.selection import best_answer, spread, within_max_lag
from ig_plugins.search.trajectory import Border, Step, common_ancestor
from ig_plugins.search.verifier import Trail
from tests.kit.guards import make_guard


def start(guard, *requests, on_release=lambda row, text: None):
    search = guard.components.start_search(Capacity.of(requests), on_release=on_release, call=lambda ask: ask())
    search.add_rows(requests)
    return search


def request_of(guard, prompt="Go.", *, stream=False, **overrides):
    return guard.request(prompt, stream=stream, **overrides)


def drain(search):
    ended = []
    while search.rows:
        ended += search.step()
    return ended


def test_a_failed_block_is_tried_again_with_a_penalty_and_counts_its_tries():
    guard = make_guard({"bad": 0.999, "fine": 0.001}, cost=lambda p, r: [float("b" in text) for text in r])
    search = start(guard, request := request_of(guard, retry_penalty=30.0, candidates=4, beams=1))
    assert search.step() == []
    (row,) = search.rows
    assert (row.attempt, row.blocks, len(row.beams)) == (1, 0, 1)
    tokens = {place: set(row.retry_penalty[place].nonzero().flatten().tolist()) for place in range(4)}
    encoded = guard.tokenizer.encode("bad", add_special_tokens=False)
    assert tokens == {0: {encoded[0]}, 1: {encoded[1]}, 2: {encoded[2]}, 3: {guard.tokenizer.eos_token_id}}
    (outcome,) = drain(search)
    assert outcome.row.request is request
    assert outcome.answer.text == "fine"
    (step,) = outcome.answer.step.path()
    assert (step.count.tries, step.count.candidates, step.count.safe) == (2, 8, 4)


def test_without_a_retry_penalty_the_same_is_drawn_again():
    guard = make_guard({"bad": 0.9999999, "fine": 0.0000001}, cost=lambda p, r: [float("b" in text) for text in r])
    assert guard.generate("Go.", retry_penalty=0.0, tries=4).blocked


def test_a_dead_end_restarts_from_the_prompt_while_no_text_has_left():
    """'a' always leads to harm a block later; only a fresh start can avoid it."""
    cost = lambda p, r: [float("X" in text) for text in r]  # noqa: E731
    guard = make_guard({"aaX": 0.5, "bbb": 0.5}, cost=cost, block_tokens=2, candidates=1, beams=1)
    outcomes = {seed: guard.generate("Go.", seed=seed, tries=8, retry_penalty=0.0) for seed in range(8)}
    assert {result.text for result in outcomes.values()} == {"bbb"}
    spent = {result.usage.candidate_tokens for result in outcomes.values()}
    assert min(spent) == 4  # straight through: two blocks of two
    assert max(spent) > 4  # tries and restarts are counted
    assert all(r.usage.judge_calls == 0 or r.usage.judge_calls >= 2 for r in outcomes.values())


def test_tries_bound_the_work():
    guard = make_guard({"X": 1.0}, cost=lambda p, r: [1.0 for _ in r], candidates=4, beams=2)
    for tries in (1, 2, 3):
        result = guard.generate("Go.", tries=tries)
        assert result.blocked
        assert result.usage.candidate_tokens == 4 * 2 * tries * tries  # tries a block, tries starts; "X" and EOS


def test_finished_answers_wait_in_the_pool_for_better_ones():
    guard = make_guard({"ok": 0.5, "a much longer answer": 0.5}, block_tokens=4)
    search = start(guard, request_of(guard))
    assert search.step() == []
    (row,) = search.rows
    assert [answer.text for answer in row.finished] == ["ok"]
    assert drain(search)[0].answer.text == "a much longer answer"
    shorter = make_guard({"ok": 0.5, "a much longer answer": 0.5}, reward=lambda p, r: [-float(len(t)) for t in r])
    assert shorter.generate("Go.", block_tokens=4).text == "ok"


def test_only_the_best_beams_stay_and_twins_take_one_place():
    guard = make_guard({"aaaa" * 4: 0.4, "bbbb" * 4: 0.3, "cccc" * 4: 0.3}, reward=lambda p, r: [
        10.0 * t.count("c") + t.count("b") for t in r], block_tokens=4, candidates=16)  # fmt: skip
    search = start(guard, request_of(guard, beams=2))
    search.step()
    texts = [guard.tokenizer.decode(beam.token_ids()) for beam in search.rows[0].beams]
    assert texts == ["cccc", "bbbb"]
    assert [beam.score for beam in search.rows[0].beams] == [40.0, 4.0]


def test_lanes_are_spread_over_the_beams_evenly_the_better_ones_first():
    request = Request([1], [1], "", SearchConfig(candidates=7, beams=3), (), 0)
    root = Step(trail=Trail.start(()))
    row = Row(request, beams=[Step(parent=root) for _ in range(3)], released=Border(root, 0, "", root.trail))
    assert spread(row) == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("max_lag", [1, 2, 3])
def test_max_lag_keeps_streams_moving(max_lag):
    # Two families of equal worth that never merge: without the limit nothing could leave before the end.
    guard = make_guard({"a" * 40: 0.5, "b" * 40: 0.5}, block_tokens=2, candidates=8, beams=4, max_tokens=50)
    chunks = list(guard.stream("Go.", max_lag=max_lag))
    result = chunks[-1].result
    assert result.text in ("a" * 40, "b" * 40)
    assert "".join(chunk.text for chunk in chunks) == result.text == guard.generate("Go.", max_lag=max_lag).text
    assert result.lag == 2 * max_lag
    assert len(chunks) >= 20 - max_lag


def test_settle_and_common_ancestor():
    root = Step(trail=Trail.start(()))
    a, b = Step(root, (1,)), Step(root, (2,))
    aa, ab, ba = Step(a, (3,)), Step(a, (4,)), Step(b, (5,))
    assert common_ancestor([aa, ab]) is a
    assert common_ancestor([aa, ba]) is root
    assert common_ancestor([aa]) is aa
    assert common_ancestor([aa, a]) is a
    request = Request([1], [1], "", SearchConfig(max_lag=1), (), 0)
    row = Row(request, beams=[], released=Border(root, 0, "", root.trail))
    assert within_max_lag([(0, aa), (1, ba), (2, ab)], row) == [(0, aa), (2, ab)]
    assert within_max_lag([(0, a), (1, b)], row) == [(0, a), (1, b)]


def test_a_hedged_choice_never_contradicts_what_was_streamed():
    """With 'hedged' an older answer can overtake the present best; text must not leave before that is known."""
    answers = {"n": 0.2, "no": 0.2, "nobody": 0.2, "nobles are": 0.2, "yes indeed it is": 0.2}

    def cost(prompts, responses):
        return [-float(sum(map(ord, text)) % 7) for text in responses]

    for seed in range(4):
        guard = make_guard(answers, cost=cost, block_tokens=1, candidates=8, beams=4, seed=seed, max_lag=1)
        chunks = list(guard.stream("Go.", selection="hedged"))
        assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.text
        assert chunks[-1].result.text == guard.generate("Go.", selection="hedged").text


def test_rows_come_and_go_between_blocks():
    guard = make_guard({"word " * 6: 1.0}, block_tokens=4)
    first, second = request_of(guard), request_of(guard, "Other.")
    search = start(guard, first, second)
    search.step()
    first.cancelled.set()
    (outcome,) = search.step()
    assert outcome.row.request is first
    assert type(outcome.error).__name__ == "RequestCancelledError"
    assert [row.request for row in search.rows] == [second]
    third = request_of(guard, "Late.")
    search.add_rows([third])
    assert {o.answer.text for o in drain(search)} == {"word " * 6}
    search.add_rows([request_of(guard)])  # an empty search starts anew
    assert drain(search)[0].answer.text == "word " * 6


def test_uniforms_are_the_requests_own():
    request = Request([1], [1], "", SearchConfig(), (), 5)
    first = request.uniforms(3, 4)
    request.uniforms(1, 1)
    request.rewind()
    assert torch.equal(request.uniforms(3, 4), first)
    assert first.dtype == torch.float64


def test_the_hedged_choice_is_the_best_of_the_half_with_most_budget_left():
    def answer(left, score):
        trail = Trail.start([SafetyBudget(limit=left, discount=1.0)])
        return Answer(Step(), score, score, "stop", f"{score}", (), trail)

    root = Step(trail=Trail.start(()))
    row = Row(
        Request([1], [1], "", SearchConfig(selection="hedged"), (), 0),
        beams=[],
        released=Border(root, 0, "", root.trail),
    )
    row.finished = [answer(1.0, 9.0), answer(3.0, 2.0), answer(5.0, 1.0)]
    assert best_answer(row).score == 2.0
    row.finished += [answer(3.0, 2.5), answer(3.0, 2.4)]  # what leaves as much is not worse for coming later
    assert best_answer(row).score == 2.5
