"""The page as a file: it needs no other, says what may run in it, and no text in it is markup."""

import base64
import hashlib
import json
import re
import threading
import time
from html import unescape
from html.parser import HTMLParser

import pytest

from critic_models.safety import SafetyBudget
from ig_plugins.errors import ConfigurationError, DeadlineExceededError, JudgeTimeoutError, RequestCancelledError
from ig_plugins.page import Document, load, page, unguarded
from ig_plugins.page.render import embedded
from tests.ig_plugins.page.conftest import EVIL, document
from tests.kit.guards import MARKER, make_guard
from tests.kit.tiny import tiny_guard, tiny_scores
from tests.kit.tokenizer import byte_tokenizer


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.contents = [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attrs = self.found[-1] if self.found else ("", {})
        self.contents.setdefault((tag, attrs.get("type")), []).append(data)


@pytest.fixture(scope="module")
def shown():
    return document()


def test_nothing_in_it_comes_from_elsewhere_and_no_text_is_markup(shown):
    text = page(shown)
    parsed = Elements(text)
    tags = [tag for tag, _ in parsed.found]
    assert tags.count("script") == 2
    assert tags.count("img") == 0
    for _, attrs in parsed.found:
        assert not {"src", "srcset", "style"} & set(attrs)
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("href", "#").startswith(("#", "data:,"))
    urls = set(re.findall(r"https?://[^\s\"']+", text))
    assert urls == {"http://www.w3.org/2000/svg"}  # a name, which nothing fetches
    assert "url(" not in text
    assert "@import" not in text
    assert "innerHTML" not in text


def test_the_policy_names_the_hashes_of_what_may_run(shown):
    text = page(shown)
    (policy,) = [unescape(a["content"]) for t, a in Elements(text).found if a.get("http-equiv")]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    for name, content in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "connect-src" not in rules


def test_the_data_are_the_document(shown):
    data = "".join(Elements(page(shown)).contents["script", "application/json"])
    assert Document.model_validate_json(data) == shown
    assert EVIL in json.loads(data)["result"]["trace"]["prompt"]


@pytest.mark.parametrize(
    "text", ["</script>", "<!--", "]]>", "a & b", "\u2028\u2029", "{style} {0} %s $x", "\ud83d\ude00é"]
)
def test_embedded_json_is_the_same_and_holds_no_markup(text):
    made = embedded({"text": text})
    assert json.loads(made) == {"text": text}
    assert not set("<>&\u2028\u2029") & set(made)


def test_documents_and_results_alone_are_read_back(shown, tmp_path):
    (tmp_path / "whole.json").write_text(shown.model_dump_json(), encoding="utf-8")
    (tmp_path / "result.json").write_text(shown.result.model_dump_json(), encoding="utf-8")
    assert load(tmp_path / "whole.json") == shown
    assert load(tmp_path / "result.json") == Document(result=shown.result)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("", "it is no JSON"),
        ("[1]", "holds no result"),
        ('{"text": "secret"}', "holds no result"),
        ("plain", "a result without a trace"),
        ("later", "format"),
    ],
)
def test_what_is_no_trace_is_refused_by_name_and_without_its_text(shown, tmp_path, content, message):
    path = tmp_path / "in.json"
    if content == "plain":
        content = shown.result.model_copy(update={"trace": None}).model_dump_json()
    if content == "later":
        content = shown.model_dump_json().replace('"format":1', '"format":9')
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message) as told:
        load(path)
    assert str(path) in str(told.value)
    assert "secret" not in str(told.value)
    assert "window" not in str(told.value)


def test_the_unguarded_answer_is_the_policys_own_and_judged_as_any_other():
    guard = make_guard({f"{MARKER} one.": 0.5, "Calm.": 0.5}, block_tokens=4)
    found = [unguarded(guard.components, guard.request("Tell me.", seed=seed)) for seed in range(12)]
    assert {each.text for each in found} == {f"{MARKER} one.", "Calm."}
    assert all(each.over_budget == (MARKER in each.text) for each in found)
    assert all(each.costs == (1.0 if each.over_budget else -1.0,) for each in found)
    assert all(each.reward == len(each.text) for each in found)
    assert all(each.lines[0].points[-1].tokens == each.tokens for each in found)
    again = unguarded(guard.components, guard.request("Tell me.", seed=3))
    assert again == found[3]


def test_its_figures_are_those_of_the_guard_for_the_same_tokens():
    """The only lane of a search that refuses nothing is the unguarded answer."""
    tokenizer = byte_tokenizer()
    budgets = [SafetyBudget(limit=1000.0, discount=0.98), SafetyBudget(limit=1000.0, accounting="worst")]
    judges = {"first": tiny_scores(tokenizer, "cost"), "second": tiny_scores(tokenizer, "cost", seed=7)}
    guard = tiny_guard(costs=judges, budgets=budgets, candidates=1, beams=1)
    prefill = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": "Well, you see"}]
    for prompt in ("Tell me.", prefill):
        result = guard.generate(prompt, seed=5, trace=True)
        plain = unguarded(guard.components, guard.request(prompt, seed=5))
        assert plain.text == result.text
        assert plain.costs == pytest.approx(tuple(result.costs.values()), abs=1e-4)
        assert plain.reward == pytest.approx(result.reward, abs=1e-4)
        for mine, line in zip(plain.lines, result.trace.costs, strict=True):
            assert [each.tokens for each in mine.points] == [each.tokens for each in line.points]
            assert [each.state for each in mine.points] == pytest.approx([each.state for each in line.points], abs=1e-3)


def test_the_unguarded_answer_ends_at_a_stop_string_and_when_it_is_cancelled():
    guard = make_guard({"One, two, three.": 1.0}, block_tokens=4, stop=[" three"])
    assert unguarded(guard.components, guard.request("Count.")).text == "One, two,"
    request = guard.request("Count.")
    request.cancelled.set()
    with pytest.raises(RequestCancelledError):
        unguarded(guard.components, request)


def test_a_judge_that_hangs_over_it_is_not_waited_for():
    asked = threading.Event()

    def hangs(prompts, responses):
        asked.set()
        released.wait(20)
        return [0.0] * len(responses)

    guard = make_guard({"Calm.": 1.0}, cost=hangs)
    released = threading.Event()
    begun = time.monotonic()
    with pytest.raises(JudgeTimeoutError, match="raise judge_timeout"):
        unguarded(guard.components, guard.request("Tell me.", judge_timeout=0.3))
    with pytest.raises(DeadlineExceededError):
        unguarded(guard.components, guard.request("Tell me.", timeout=0.5))
    assert asked.is_set()
    assert time.monotonic() - begun < 15
    released.set()
