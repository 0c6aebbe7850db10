"""Judges that hang, fail, or wait for themselves: nothing leaves, and the others are answered in their time."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ig_plugins.errors import (
    ConfigurationError,
    DeadlineExceededError,
    JudgeError,
    JudgeTimeoutError,
    ReentrantJudgeError,
)
from ig_plugins.runtime import batch as batches
from ig_plugins.runtime import judging, worker
from tests.kit.guards import cost_of_marker, make_guard
from tests.kit.observe import fan_out, until

SECONDS = 20  # far more than anything here takes, far less than for ever


def echo(prompt):
    return {f"You said {prompt.split('USER: ')[1].split(' ASSISTANT')[0]}": 1.0}


def within(function, *given, **named):
    """The result of a call that must not hang."""
    with_result = ThreadPoolExecutor(1)
    try:
        return with_result.submit(function, *given, **named).result(SECONDS)
    finally:
        with_result.shutdown(wait=False)


@pytest.fixture
def hang():
    """A judge that hangs as long as it is asked about a prompt with poison; the end of the test frees it."""
    free = threading.Event()

    def judge(prompts, responses):
        if any("poison" in prompt for prompt in prompts):
            free.wait(60)
        return cost_of_marker(prompts, responses)

    judge.free = free
    yield judge
    free.set()


# ---- one that hangs ----


def test_one_request_of_a_batch_reaches_its_deadline_and_the_others_are_answered(hang):
    guard = make_guard(echo, cost=hang)
    prompts = ["one", "poison", "two"]
    handles = [guard.prepare(prompt, timeout=1.0 if prompt == "poison" else 15.0) for prompt in prompts]
    started = time.monotonic()
    for handle in handles:
        handle.request.deadline = started + handle._options.timeout
    worker().submit(handles)
    with pytest.raises(DeadlineExceededError):
        handles[1].result()
    assert 0.9 < time.monotonic() - started < 2.5
    assert [handles[0].result().text, handles[2].result().text] == ["You said one", "You said two"]
    assert time.monotonic() - started < 10


def test_a_request_without_a_deadline_holds_up_none_that_has_one(hang):
    guard = make_guard(echo, cost=hang, judge_timeout=5.0)
    found = {}

    def ask(prompt, **options):
        try:
            found[prompt] = guard.generate(prompt, **options).text
        except JudgeError as error:
            found[prompt] = error

    asking = [
        threading.Thread(target=ask, args=("poison",)),
        threading.Thread(target=ask, args=("one",), kwargs={"timeout": 3.0}),
    ]
    for thread in asking:
        thread.start()
    asking[1].join(SECONDS)
    assert found == {"one": "You said one"}
    asking[0].join(SECONDS)
    assert isinstance(found["poison"], JudgeTimeoutError)


def test_a_late_request_is_tried_again_apart_and_never_counts_as_judged(hang):
    guard = make_guard(echo, cost=hang, judge_timeout=5.0)
    late, quick = (guard.prepare(prompt, timeout=timeout) for prompt, timeout in (("poison", None), ("one", 3.0)))
    for handle in (late, quick):
        handle.begin()
    worker().submit([late, quick])  # one batch
    assert quick.result().text == "You said one"
    with pytest.raises(JudgeTimeoutError):
        late.result()


def test_those_who_come_while_a_judge_hangs_are_answered(hang):
    guard = make_guard(echo, cost=hang, judge_timeout=10.0)
    stuck = threading.Thread(target=lambda: guard.generate(["poison"], return_exceptions=True))
    stuck.start()
    time.sleep(0.2)
    started = time.monotonic()
    for word in ("one", "two", "three"):
        assert within(guard.generate, word).text == f"You said {word}"
    assert time.monotonic() - started < 5
    hang.free.set()
    stuck.join(SECONDS)
    assert not stuck.is_alive()
    until(lambda: not worker()._lines)


def test_a_judge_has_a_deadline_of_its_own(hang):
    guard = make_guard(echo, cost=hang, judge_timeout=0.5)
    assert make_guard(echo).options.judge_timeout == 60.0
    for ask in (guard.generate, lambda prompt: list(guard.stream(prompt))):
        with pytest.raises(JudgeTimeoutError, match=r"'marker' gave no verdict within 0\.5.* s; .*raise judge_timeout"):
            within(ask, "poison")
    with pytest.raises(JudgeTimeoutError):
        within(lambda: asyncio.run(guard.agenerate("poison")))
    assert within(guard.generate, "one").text == "You said one"
    slower = guard.generate(["poison", "one"], judge_timeout=1.0, return_exceptions=True)
    assert isinstance(slower[0], JudgeTimeoutError)
    assert slower[1].text == "You said one"


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "soon"])
def test_a_judges_time_is_a_positive_number(value):
    with pytest.raises(ConfigurationError, match="judge_timeout"):
        make_guard().generate("Go.", judge_timeout=value)


def test_a_reward_model_that_hangs_is_no_different(hang):
    guard = make_guard(echo, reward=hang, judge_timeout=0.5)
    poisoned, fine = within(guard.generate, ["poison", "one"], return_exceptions=True)
    assert isinstance(poisoned, JudgeTimeoutError)
    assert fine.text == "You said one"


def test_a_stream_that_has_begun_goes_on_beside_a_judge_that_fails_for_another():
    """Its batch cannot start anew; only the request to blame may fail."""

    def judge(prompts, responses):
        if any("poison" in prompt and len(text) > 9 for prompt, text in zip(prompts, responses, strict=True)):
            raise ValueError("no")
        return cost_of_marker(prompts, responses)

    guard = make_guard({"word " * 20: 1.0}, cost=judge, beams=1)
    stream, poisoned = (guard.prepare(p, stream=True) for p in ("one", "poison"))
    worker().submit([stream, poisoned])
    assert stream.result().text == "word " * 20
    with pytest.raises(JudgeError, match="'marker' raised ValueError"):
        poisoned.result()


def test_calls_that_never_come_back_are_counted_and_bounded(hang):
    guard = make_guard(echo, cost=hang, judge_timeout=0.3, reward=None)
    judge = guard.components.costs["marker"]
    for _ in range(4):
        found = within(guard.generate, ["poison"] * 8, return_exceptions=True)
        assert all(isinstance(each, JudgeTimeoutError) for each in found)
    left = judging._left[id(judge)]
    assert judging.MAX_LEFT <= left <= judging.MAX_LEFT + 9  # one call about all, eight about each
    with pytest.raises(JudgeTimeoutError, match="is not asked: 16 of its calls were given up and still run"):
        within(guard.generate, "one")
    assert make_guard(echo).generate("one").text == "You said one"  # another judge
    hang.free.set()
    until(lambda: id(judge) not in judging._left)
    assert within(guard.generate, "one").text == "You said one"


def test_a_judge_that_exits_is_a_judge_that_fails():
    def quits(prompts, responses):
        raise SystemExit(3)

    with pytest.raises(JudgeError, match="'marker' raised SystemExit"):
        within(make_guard(echo, cost=quits).generate, "one")


def test_a_judge_of_ones_own_class_that_returns_nonsense_is_refused():
    class Mine:
        name, default_accounting, default_limit, default_discount = "marker", "worst", 0.0, 1.0

        def score(self, prompts, responses, *, finished=None):
            return [0.0]

    with pytest.raises(JudgeError, match="'marker' returned 1 scores for 2 responses"):
        within(make_guard({"Hello there": 0.5, "Goodbye now": 0.5}, cost=Mine()).generate, "one")


def test_a_judge_that_empties_the_lists_it_gets_passes_nothing():
    class Empties:
        name, default_accounting, default_limit, default_discount = "marker", "worst", 0.0, 1.0

        def score(self, prompts, responses, *, finished=None):
            prompts.clear()
            responses.clear()
            return []

    texts = ["one", "two"]
    with pytest.raises(JudgeError, match="0 scores for 2"):
        judging.ask_judge(Empties(), ["", ""], texts)
    assert texts == ["one", "two"]
    with pytest.raises(JudgeError, match="returned 0 scores"):
        make_guard({"Hello.": 1.0}, cost=Empties()).generate("Go.")


@pytest.mark.parametrize("patience", [0.0, 0.01, 0.5])
def test_lines_that_part_and_join_again_lose_nobody(patience, monkeypatch):
    """Slow, failing and hanging calls in a random order, while requests come and go."""
    monkeypatch.setattr(batches, "PATIENCE", patience)
    dice, free = random.Random(7), threading.Event()

    def moody(prompts, responses):
        time.sleep(dice.random() * 0.04)
        if any("poison" in prompt for prompt in prompts):
            free.wait(60)
        if any("bad" in prompt for prompt in prompts):
            raise ValueError
        return cost_of_marker(prompts, responses)

    guard = make_guard(echo, cost=moody, judge_timeout=15.0)
    words = [f"{'bad' if n % 7 == 3 else 'word'} {n}" for n in range(24)] + ["poison 1", "poison 2"]

    def ask(word):
        time.sleep(dice.random() * 0.2)
        (found,) = guard.generate([word], timeout=2.0 if "poison" in word else 12.0, return_exceptions=True)
        return getattr(found, "text", type(found))

    found = fan_out(ask, words, threads=len(words))
    expected = {"bad": JudgeError, "poison": DeadlineExceededError}
    assert found == [expected.get(word.split()[0], f"You said {word}") for word in words]
    free.set()
    until(lambda: not worker()._lines)


# ---- one that waits for itself ----

WAYS = {
    "generate": lambda guard: guard.generate("again").text,
    "a list": lambda guard: guard.generate(["again"])[0].text,
    "stream": lambda guard: "".join(chunk.text for chunk in guard.stream("again")),
    "async": lambda guard: asyncio.run(guard.agenerate("again")).text,
    "to_thread": lambda guard: asyncio.run(asyncio.to_thread(guard.generate, "again")).text,
    "other options": lambda guard: guard.with_options(max_tokens=4).generate("again").text,
}


def asking(way):
    """A judge that asks the guard in its attribute before it says that all is well."""

    def judge(prompts, responses):
        way(judge.guard)
        return [-1.0] * len(responses)

    return judge


@pytest.mark.parametrize("way", WAYS)
def test_a_judge_that_asks_its_own_guard_is_refused(way):
    judge = asking(WAYS[way])
    judge.guard = make_guard(echo, cost=judge)
    with pytest.raises(ReentrantJudgeError, match="'marker' asked a guard that would have to ask it again"):
        within(judge.guard.generate, "one")
    judge.guard.components.costs["marker"].function = cost_of_marker
    assert within(judge.guard.generate, "one").text == "You said one"  # nobody hangs afterwards


def test_a_reward_model_that_asks_its_own_guard_is_refused():
    judge = asking(WAYS["generate"])
    judge.guard = make_guard(echo, reward=judge)
    with pytest.raises(ReentrantJudgeError, match="'reward' asked a guard"):
        within(judge.guard.generate, "one")


def test_judges_that_ask_each_others_guards_are_refused():
    judges = [asking(WAYS["generate"]) for _ in range(3)]
    guards = [make_guard(echo, cost=judge) for judge in judges]
    for judge, guard in zip(judges, guards[1:] + guards[:1], strict=True):
        judge.guard = guard
    for guard in guards:
        with pytest.raises(ReentrantJudgeError):
            within(guard.generate, "one")


def test_a_judge_may_ask_another_guard():
    judge = asking(WAYS["generate"])
    judge.guard = make_guard(echo)
    guard = make_guard(echo, cost=judge)
    assert within(guard.generate, ["one", "two"])[1].text == "You said two"
    assert "".join(chunk.text for chunk in guard.stream("one")) == "You said one"


def test_a_bare_thread_hides_a_cycle_and_the_judges_time_ends_it():
    judge = asking(lambda guard: within(guard.generate, "again"))
    judge.guard = make_guard(echo, cost=judge, judge_timeout=0.3)
    try:
        with pytest.raises(JudgeError):
            within(judge.guard.generate, "one")
    finally:  # the caller has its error; the cycle itself goes on until the judge stops asking
        judge.guard.components.costs["marker"].function = cost_of_marker
    until(lambda: not worker()._lines)


def test_a_logits_processor_that_asks_a_guard_is_refused():
    other = make_guard(echo)

    def processor(ids, scores):
        other.generate("again")
        return scores

    guard = make_guard(echo, logits_processors=[processor])
    with pytest.raises(ConfigurationError, match="asked from inside a decoding step"):
        within(guard.generate, "one")
    assert within(other.generate, "one").text == "You said one"
