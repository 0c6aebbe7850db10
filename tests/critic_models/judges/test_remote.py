"""Judges behind HTTP: asked in batches, with a deadline, and no text leaves on anything but a verdict."""

import os
import time

import pytest

from critic_models.errors import ConfigurationError, JudgeError
from critic_models.identity import describe, unknown_parts
from critic_models.judges import ClassifyJudge, HttpJudge, as_judge, load_judge
from ig_plugins import InferenceGuard
from tests.kit.endpoint import WORD, Endpoint
from tests.kit.guards import make_guard
from tests.kit.observe import LeakScanner
from tests.kit.raw_server import RawServer, http


@pytest.fixture
def endpoint():
    served = Endpoint()
    yield served
    served.stall.set()
    served.server.shutdown()
    served.server.server_close()


def test_it_is_asked_in_batches_in_the_documented_form(endpoint, monkeypatch):
    monkeypatch.setenv("INFERENCEGUARD_JUDGE_KEY", "sk-1")
    judge = HttpJudge(endpoint.base + "/judge", batch_size=2)
    assert judge.score(["a", "b", "c"], ["x", WORD, "y"], finished=[True, False, True]) == [-1.0, 1.0, -1.0]
    assert endpoint.asked == [
        {"prompts": ["a", "b"], "responses": ["x", WORD], "finished": [True, False]},
        {"prompts": ["c"], "responses": ["y"], "finished": [True]},
    ]
    assert {headers["authorization"] for headers in endpoint.headers} == {"Bearer sk-1"}
    assert endpoint.paths == ["/judge", "/judge"]
    assert judge.score([], []) == []


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines", "bell\a"])
def test_a_key_that_no_header_can_carry_is_refused_by_its_variable(endpoint, monkeypatch, key):
    judge = HttpJudge(endpoint.base + "/judge")
    monkeypatch.setenv("INFERENCEGUARD_JUDGE_KEY", key)
    with pytest.raises(ConfigurationError, match="INFERENCEGUARD_JUDGE_KEY holds characters") as refused:
        HttpJudge(endpoint.base + "/judge")
    with pytest.raises(JudgeError, match="INFERENCEGUARD_JUDGE_KEY holds characters") as failed:
        judge.score(["a"], ["x"])
    assert key not in str(refused.value) + str(failed.value)
    assert endpoint.asked == []


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (200, {"scores": [1.0]}, "1 scores for 2"),
        (200, {"scores": [1.0, None]}, "NoneType"),
        (200, {"scores": ["1", 2.0]}, "str"),
        (200, b'{"scores": [NaN, 1.0]}', "no JSON"),
        (200, b'{"scores": [1e999, 1.0]}', "inf"),
        (200, b'{"scores": [1.0, 1.0], "scores": [-1.0, -1.0]}', "no JSON"),
        (200, {"scores": [False, 1.0]}, "true or false"),
        (200, {"scores": [True, 1.0]}, "true or false"),
        (200, {"scores": 3}, "no text is released without a verdict"),
        (200, [1.0, 2.0], "no text is released without a verdict"),
        (200, b"<html>", "no JSON"),
        (200, b" " * 3_000_000, "far too long"),
        (500, {"error": "x"}, "status 500"),
        (302, b"", "status 302"),
        (401, {}, "status 401"),
    ],
)
def test_whatever_is_no_verdict_is_an_error(endpoint, status, content, said):
    endpoint.reply = lambda body: (status, content)
    text = f"what nobody {'may'} see"  # not as it stands here, where a traceback would quote it
    with LeakScanner() as scanner, pytest.raises(JudgeError, match=said) as refused:
        HttpJudge(endpoint.base).score([text] * 2, [text] * 2)
    scanner.see_exception(refused.value)
    assert scanner.find(text) == []


def test_it_has_a_deadline_and_needs_a_server(endpoint):
    endpoint.reply = endpoint.hang
    started = time.monotonic()
    with pytest.raises(JudgeError, match=r"took longer than 0\.5 s"):
        HttpJudge(endpoint.base, seconds=0.5).score(["a"], ["b"])
    assert time.monotonic() - started < 3
    with pytest.raises(JudgeError, match="cannot be reached"):
        HttpJudge("http://127.0.0.1:9/x").score(["a"], ["b"])


def test_its_deadline_holds_for_all_batches_together(endpoint):
    def late(body):
        time.sleep(0.4)
        return endpoint.scores(body)

    endpoint.reply = late
    started = time.monotonic()
    with pytest.raises(JudgeError, match=r"took longer than 1 s"):
        HttpJudge(endpoint.base, seconds=1.0, batch_size=1).score(["a"] * 9, ["b"] * 9)
    assert time.monotonic() - started < 2


def test_scores_are_not_read_from_a_reply_to_another_text():
    """A server, or what stands before it, that answers twice: the second reply is nobody's."""

    def twice(number, head):
        return [http({"scores": [float(number)]}) + http({"scores": [-9.0]})]

    with RawServer(twice) as server:
        judge = HttpJudge(server.base)
        assert [judge.score(["a"], [text]) for text in ("first", "second")] == [[1.0], [2.0]]


def test_a_text_that_cannot_be_sent_is_an_error_that_does_not_hold_it(endpoint):
    with pytest.raises(JudgeError, match="cannot be asked") as refused:
        HttpJudge(endpoint.base).score(["SECRET \ud800"], ["b"])
    error = refused.value
    while error is not None:
        assert "SECRET" not in repr(vars(error)) + repr(error.args) + repr(getattr(error, "object", ""))
        error = error.__cause__ or error.__context__
    assert endpoint.asked == []


def test_vllms_classify_is_read_by_the_index_of_its_label(endpoint):
    endpoint.reply = endpoint.classes
    judge = load_judge(endpoint.base.replace("http", "classify+http") + "/org/name?label=1&reads=pair", kind="cost")
    assert isinstance(judge, ClassifyJudge)
    assert judge.default_limit == 0.5
    assert judge.score(["p", "q"], [WORD, "fine"]) == [0.9, 0.2]
    assert endpoint.asked == [{"model": "org/name", "input": [f"p\n{WORD}", "q\nfine"], "use_activation": True}]
    assert endpoint.paths == ["/classify"]
    for wrong in (
        {"data": [{"index": 0, "probs": [0.1, 0.9]}]},
        {"data": [{"index": 1, "probs": [0.1, 0.9]}, {"index": 0, "probs": [0.1, 0.9]}]},
        {"data": [{"index": 0, "probs": [0.1]}, {"index": 1, "probs": [0.9]}]},
        {"data": [{"index": 0}, {"index": 1}]},
        {"data": ["a", "b"]},
        {},
    ):
        endpoint.reply = lambda body, wrong=wrong: (200, wrong)
        with pytest.raises(JudgeError):
            judge.score(["p", "q"], ["a", "b"])


@pytest.mark.parametrize(
    "address",
    [
        "http://SECRET@host/x",
        "http://user:SECRET@host:bad/x",
        "http://user:SEC/RET@host/x",
        "http:///x",
        "http://[1/x",
        "http://host:99999/x",
        "classify+http://host/m?lable=SECRET",
        "classify+http://host/m?label=bad",
        "classify+http://host/m?label=²",
    ],
)
def test_what_is_no_address_of_a_judge_is_refused(address):
    with pytest.raises(ConfigurationError) as refused:
        load_judge(address, kind="cost")
    assert "SEC" not in str(refused.value)
    if "+" not in address:
        with pytest.raises(ConfigurationError):
            HttpJudge(address)
    with pytest.raises(ConfigurationError, match="does not know one of"):
        load_judge("http://host/x", kind="cost", judge_options={"batch": 3})


def test_it_guards(endpoint):
    guard = make_guard(
        {f"This is {WORD} text.": 0.7, "This is fine.": 0.3}, cost=as_judge(endpoint.base, name="marker", kind="cost")
    )
    result = guard.generate("hello")
    assert result.text == "This is fine."
    for status, content in ((500, {}), (200, b"x")):
        endpoint.reply = lambda body, status=status, content=content: (status, content)
        with pytest.raises(JudgeError):
            guard.generate("hello")
    endpoint.reply = endpoint.scores
    assert guard.generate("hello").text == "This is fine."


def test_its_address_is_a_cost_models_name(endpoint):
    guard = InferenceGuard.from_pretrained(
        "tiny-beaver", cost_model=endpoint.base + "/judge", reward_model="tiny-beaver", max_tokens=8
    )
    assert guard.generate("hello").cost == -1.0
    assert guard.components.critic is None


def test_only_its_owners_word_makes_it_known():
    assert list(unknown_parts(describe(HttpJudge("http://host/x"))))
    assert not list(unknown_parts(describe(HttpJudge("http://host/x", version="words-1"))))
    assert describe(HttpJudge("http://host/x", version="1")) != describe(HttpJudge("http://host/x", version="2"))


def test_a_forked_child_opens_connections_of_its_own(endpoint):
    judge = HttpJudge(endpoint.base)
    judge.score(["a"], ["b"])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(judge.score(["a"], ["b"]) != [-1.0])
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert judge.score(["a"], [WORD]) == [1.0]
