"""What leaves is the very text that was judged last: the cases in which it once was another one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from critic_models.safety import SafetyBudget
from ig_plugins import InferenceGuard
from ig_plugins.errors import InferenceGuardError, JudgeError
from ig_plugins.search import Answer, Border, Capacity, Policy, Request, Row, SearchConfig, Step, Trail
from ig_plugins.search.verifier import Scored
from tests.ig_plugins.search.fuzz import tokenizer_of
from tests.ig_plugins.search.test_critic import Foresees, constant, with_critic
from tests.kit.guards import make_guard
from tests.kit.no_grammar import no_grammar  # noqa: F401
from tests.kit.scripted import ScriptedModel, ScriptedTokenJudge, trie
from tests.kit.tiny import tiny_guard, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "run",
        "description": "Runs a command.",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}


class Judge:
    """A cost model from one function of the text; keeps what it passed."""

    def __init__(self, score):
        self.score, self.passed, self.refused = score, set(), set()

    def __call__(self, prompts, responses):
        scores = [float(self.score(text)) for text in responses]
        for text, score in zip(responses, scores, strict=True):
            (self.passed if score <= 0 else self.refused).add(text)
        return scores


def shown(guard, **options):
    """Every text that a reader of a stream has had before them, and the result."""
    texts, so_far = [], ""
    for chunk in guard.stream("Go.", **options):
        if chunk.result is not None and chunk.result.blocked:
            return texts, chunk.result
        so_far += chunk.text
        texts.append(so_far)
    return texts, chunk.result


def test_an_answer_does_not_outlive_a_refused_step_on_its_way():
    """Under a critic a step is judged when it is released, after finished answers that pass it were verified."""
    unfinished = Judge(lambda text: 0.0 if text.endswith(".") else 50.0)
    answers = {"Aaaa.": 0.3, "Aaaabbbb more.": 0.25, "Aaaacccc more.": 0.25, "Bbbb.": 0.2}
    budget = SafetyBudget(limit=10.0, discount=1.0)
    guard = make_guard(answers, cost=unfinished, budget=budget, candidates=12, block_tokens=4)
    with_critic(guard, Foresees(constant(9.0), constant(50.0)))
    refused = 0
    for seed in range(25):
        unfinished.refused.clear()
        result = guard.generate("Go.", seed=seed, tries=1)
        refused += "Aaaa" in unfinished.refused
        assert result.blocked or not ("Aaaa" in unfinished.refused and result.text.startswith("Aaaa"))
        assert result.blocked or all(block.safety_state is None or block.safety_state > 0 for block in result.blocks)
        assert result.blocked or result.safety_state > 0
    assert refused > 3


def test_a_finalist_is_verified_whatever_the_critic_says():
    judge = Judge(lambda text: "UNSAFE" in text)
    guard = make_guard({"UNSAFE": 0.5, "Fine.": 0.5}, cost=judge, block_tokens=40, candidates=2)
    with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    for seed in range(8):
        result = guard.generate("Go.", seed=seed)
        assert result.blocked or result.text == "Fine."


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("block", [1, 3, 8, 13])
def test_a_stream_that_holds_back_a_stop_string_shows_judged_text(critic, block):
    judge = Judge(lambda text: text.endswith(("now", "now,", "now, ")))
    guard = make_guard({"Drink the bleach now, or rather never": 1.0}, cost=judge, max_lag=1, block_tokens=block)
    if critic:
        with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    for stop in ([], [", or else"], [" or elsewhere"], [", or rather not"]):
        texts, result = shown(guard, stop=stop)
        assert set(texts) <= judge.passed
        assert result.blocked or result.text in judge.passed


@pytest.mark.parametrize("block", [1, 2, 5, 7])
def test_a_stream_that_holds_back_half_a_character_shows_judged_text(block):
    judge = Judge(lambda text: text == "The ")
    guard = make_guard({"The 🦫 is a beaver": 1.0}, cost=judge, max_lag=1, block_tokens=block)
    texts, _ = shown(guard)
    assert set(texts) <= judge.passed


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("call", ['{"name": "run", "arguments": {"command": "ls"}}', '{"name": "run", "argu'])
def test_words_before_a_call_are_judged_alone(critic, call):
    """They leave without the call that made them pass; so do those before a call that is no call."""
    judge = Judge(lambda text: "hurt" in text and "<tool_call>" not in text)
    answer = f"I will hurt you.\n<tool_call>\n{call}\n</tool_call>"
    guard = make_guard(
        {answer: 0.9, "I won't.": 0.1}, cost=judge, chat=True, max_tokens=120, block_tokens=120, tools=[TOOL]
    )
    if critic:
        with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    for seed in range(6):
        result = guard.generate("Go.", seed=seed)
        assert "hurt" not in result.text
        texts, _ = shown(guard, seed=seed)
        assert not any("hurt" in text for text in texts)


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("words", ["", "Sure. "])
@pytest.mark.parametrize("tokenizer", ["chat", "hidden_calls"])
def test_arguments_are_judged_as_the_tool_gets_them(tokenizer, words):
    """Escapes and special tokens are part of what a model writes, and not of what a reader of its text sees."""
    judge = Judge(lambda text: "rm -r" in text or "cat <|im_start|>/etc" in text)
    calls = ["\\u0072m -r x", "cat <|im_start|>/etc", "ls"]
    answers = {
        words + f'<tool_call>\n{{"name": "run", "arguments": {{"command": "{each}"}}}}\n</tool_call>': 1 / 3
        for each in calls
    }
    guard = make_guard(answers, cost=judge, chat=True, max_tokens=120, tools=[TOOL])
    if tokenizer == "hidden_calls":
        hidden = tokenizer_of(tokenizer)
        tree = ScriptedModel.from_answers(hidden, answers, context=8192)
        policy = Policy(tree=tree, tokenizer=hidden, stop_ids=frozenset({hidden.eos_token_id}))
        guard = make_guard(policy=policy, cost=judge, chat=True, max_tokens=120, tools=[TOOL])
    given = set()
    for seed in range(8):
        result = guard.generate("Go.", seed=seed)
        assert result.blocked or "tool_call" not in result.text
        given |= {call["arguments"]["command"] for call in result.tool_calls}
    assert given == {"ls"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\u0072m -r',
        "Action Input: {'a': '\\x72m -r'}",
        '["\\ud83d", "\\u0072m -r"]',
        '["\\U00000072m -r"]',
        '["r\\\n  m -r"]',
    ],
)
def test_what_a_lenient_parser_reads_is_judged_too(text):
    """JSON that is cut off, or no JSON: ReAct's parser, LangChain's, and YAML's, which LlamaIndex falls back to."""
    guard = make_guard({text: 1.0}, cost=Judge(lambda text: "rm -r" in text), chat=True, block_tokens=120)
    assert guard.generate("Go.").blocked


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("tools", [(), (TOOL,)], ids=["", "beside tools"])
@pytest.mark.parametrize("around", ["{}", "Sure:\n```json\n{}\n```", "{}\nDone."], ids=["alone", "fenced", "in words"])
def test_json_is_judged_as_its_reader_gets_it(around, tools, critic):
    """Structured answers are parsed behind the guard, and the parser undoes escapes."""
    judge = Judge(lambda text: "rm -r" in text or 'say "rm"' in text)
    objects = ['{"a": "\\u0072m -r x"}', '{"a": ["say \\"rm\\""]}', '{"\\u0072m -r": 1}', '{"a": "ls \\\\ x"}']
    answers = {around.replace("{}", each): 1 / 4 for each in objects}
    guard = make_guard(answers, cost=judge, chat=True, max_tokens=120, block_tokens=120, tools=list(tools))
    if critic:
        with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    texts = {guard.generate("Go.", seed=seed).text for seed in range(8)}
    assert {text for text in texts if "{" in text} == {around.replace("{}", objects[3])}


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("critic", [False, True])
def test_invalid_calls_are_judged_as_a_message_shows_them(critic):
    """Of an answer of nothing else they are its content, one behind the other and without the white space before."""
    judge = Judge(lambda text: text.startswith('<tool_call>\n{"name": "run"}\n<tool_call>'))
    calls = ' <tool_call>\n{"name": "run"}\n<tool_call>\n{"name": "rm -r"}'
    guard = make_guard({calls: 1.0}, cost=judge, chat=True, max_tokens=120, block_tokens=120, tools=[TOOL])
    if critic:
        with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    assert guard.generate("Go.").blocked
    judge.score = lambda text: False
    result = guard.generate("Go.")
    assert result.content == calls[1:]
    assert result.content in judge.passed


class ReadsTokens(ScriptedTokenJudge):
    """A judge of tokens that dislikes a token behind which a text stands, wherever it is read."""

    body = SimpleNamespace(device="cpu")

    def __init__(self, tokenizer, bad):
        dislikes = lambda prompt, ids: 50.0 if tokenizer.decode(list(ids[-len(bad) :])) == bad else -1.0  # noqa: E731
        super().__init__(tokenizer, dislikes, accounting="worst")
        self.dislikes = dislikes

    def score_tokens(self, ids, mask):
        return torch.tensor([[self.dislikes((), row[: at + 1]) for at in range(len(row))] for row in ids.tolist()])


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("reading", ["any_time", "terminal"])
def test_judges_of_tokens_read_arguments_as_the_tool_gets_them(critic, reading):
    call = '<tool_call>\n{"name": "run", "arguments": {"command": "%s"}}\n</tool_call>'
    answers = {call % "\\u0072m -r x": 0.5, call % "ls": 0.3, f"Sure. {call % 'ls'}": 0.2}
    guard = make_guard(answers, chat=True, max_tokens=120, block_tokens=120, tools=[TOOL])
    judge = ReadsTokens(guard.tokenizer, "rm -r")
    parts = replace(guard.components, costs={"tokens": judge}, judge_trees={id(judge): judge.tree})
    guard = InferenceGuard(
        parts, guard.options.updated(budget=SafetyBudget(limit=0.0, accounting="worst", reading=reading))
    )
    if critic:
        with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    results = [guard.generate("Go.", seed=seed) for seed in range(8)]
    given = [call["arguments"]["command"] for result in results for call in result.tool_calls]
    assert set(given) == {"ls"}
    assert all(result.cost == -1.0 for result in results if not result.blocked)


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize("call", ["", '<tool_call>\n{"name": "run", "arguments": {"command": "ls"}}\n</tool_call>'])
def test_judges_of_tokens_read_json_beside_calls_as_its_reader_gets_it(call):
    answers = {'{"a": "\\u0072m -r x"}' + call: 0.5, '{"a": "ls"}' + call: 0.5}
    guard = make_guard(answers, chat=True, max_tokens=120, block_tokens=120, tools=[TOOL])
    judge = ReadsTokens(guard.tokenizer, "rm -r")
    parts = replace(guard.components, costs={"tokens": judge}, judge_trees={id(judge): judge.tree})
    budget = SafetyBudget(limit=0.0, accounting="worst", reading="any_time")
    guard = InferenceGuard(parts, guard.options.updated(budget=budget))
    results = [guard.generate("Go.", seed=seed) for seed in range(8)]
    assert {result.text for result in results if not result.blocked} == {'{"a": "ls"}'}


@pytest.mark.usefixtures("no_grammar")
@pytest.mark.parametrize(("written", "given"), [("ls", {"ls"}), ("\\u006cs", set())], ids=["as it is", "escaped"])
def test_judges_of_tokens_read_a_call_once_where_nothing_hides_it(written, given):
    """A probe takes the bare words of a call for harm, which are unlike all that it was taught."""
    call = '<tool_call>\n{"name": "run", "arguments": {"command": "%s"}}\n</tool_call>'
    guard = make_guard({call % written: 1.0}, chat=True, max_tokens=120, block_tokens=120, tools=[TOOL])
    judge = ReadsTokens(guard.tokenizer, "I call")
    parts = replace(guard.components, costs={"tokens": judge}, judge_trees={id(judge): judge.tree})
    budget = SafetyBudget(limit=0.0, accounting="worst", reading="any_time")
    result = InferenceGuard(parts, guard.options.updated(budget=budget)).generate("Go.", seed=1)
    assert {each["arguments"]["command"] for each in result.tool_calls} == given
    assert result.blocked is not bool(given)


@pytest.mark.parametrize("critic", [False, True])
def test_bytes_that_stay_incomplete_do_not_part_a_stream_from_its_result(critic):
    """With byte fallback a whole run of bytes becomes unreadable by one byte too many."""
    tokenizer = tokenizer_of("byte_fallback")
    byte = {value: tokenizer.convert_tokens_to_ids(f"<0x{value:02X}>") for value in range(256)}
    a = tokenizer.convert_tokens_to_ids("a")
    bodies = ([a, *(byte[b] for b in "é".encode()), byte[0xE2]], [a, *(byte[b] for b in "éé€".encode()), a, byte[0xC3]])
    for ids in bodies:
        tree = ScriptedModel(
            trie({tuple(ids): 1.0}, stop=tokenizer.eos_token_id), vocab_size=len(tokenizer), context=8192
        )
        policy = Policy(tree=tree, tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}))
        guard = make_guard(policy=policy, block_tokens=1, max_lag=0, cost=lambda p, r: [0.0] * len(r))
        if critic:
            with_critic(guard, Foresees(constant(9.0), constant(0.0)))
        chunks = list(guard.stream("Go."))
        assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.text == guard.generate("Go.").text


@pytest.mark.parametrize(
    ("score", "limit"), [(0.500000001, 0.5), (1e-50, 0.0), (1 + 2**-50, 1.0), (16777217.0, 16777216.0)]
)
def test_scores_are_compared_in_double_precision(score, limit):
    for accounting in ("worst", "cumulative") if limit else ("worst",):
        budget = SafetyBudget(limit=limit, accounting=accounting, discount=1.0)
        guard = make_guard({"Hello.": 1.0}, cost=lambda p, r: [score] * len(r), budget=budget)
        assert guard.generate("Go.").blocked


@pytest.mark.parametrize("stop", ["STOP", "OP", "A TOP"])
def test_after_a_stop_cut_tokens_and_cost_are_those_of_what_is_left(stop):
    cost = lambda p, r: [float(len(text)) - 100 for text in r]  # noqa: E731
    guard = make_guard({"Nice and easy. STOP and a lot more": 1.0}, cost=cost)
    result = guard.generate("Go.", stop=[stop])
    assert result.text == "Nice and easy. STOP and a lot more".partition(stop)[0]
    assert guard.tokenizer.decode(result.token_ids, skip_special_tokens=True) == result.text
    assert result.cost == len(result.text) - 100
    assert result.usage.completion_tokens == len(result.token_ids)


def test_after_a_stop_cut_a_token_judge_has_read_what_is_left():
    judge = tiny_scores(byte_tokenizer(), "cost", scale=0.2)
    guard = tiny_guard(costs={"cost": judge}, budgets=[SafetyBudget(limit=50.0, discount=1.0)], max_new_tokens=40)
    cut = 0
    for seed in range(6):
        middle = next(letter for letter in guard.generate("Go.", seed=seed).text[3:] if letter.isascii())
        result = guard.generate("Go.", seed=seed, stop=[middle])
        cut += result.text != ""
        request = guard.request("Go.")
        ids = torch.tensor([[*request.judge_ids, *result.token_ids]])
        scores = judge.score_tokens(ids, torch.ones_like(ids))[0, len(request.judge_ids) :].detach()
        assert result.cost == pytest.approx(float(scores.sum()), abs=1e-4)
        assert guard.tokenizer.decode(result.token_ids, skip_special_tokens=True) == result.text
    assert cut > 2


@pytest.mark.parametrize("reward", [lambda p, r: [float(len(text)) for text in r], None])
@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("max_lag", [0, 1, 2])
def test_an_early_answer_does_not_hold_back_a_stream(max_lag, critic, reward):
    answers = {"ok": 0.4, "a much longer answer of many words and more of them still": 0.6}
    guard = make_guard(answers, block_tokens=4, reward=reward, max_lag=max_lag)
    if critic:
        with_critic(guard, Foresees(constant(9.0), lambda hidden: hidden[..., 0] * 0 + 50.0))
    for seed in range(6):
        chunks = list(guard.stream("Go.", seed=seed))
        assert chunks[-1].result.lag <= 4 * max_lag
        assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.text


def trail(limit=10.0, *points):
    """Of one cumulative judge of texts: (tokens, score of the text so far)."""
    budget = SafetyBudget(limit=limit, discount=1.0)
    scores = torch.tensor([float(score) for _, score in points], dtype=torch.float64)
    return Trail.start([budget]).extended([Scored(scores, tuple(at for at, _ in points), whole=True)])


def answer(step, score=0.0, *, of=None):
    return Answer(step, score, None, "stop", "text", step.tokens, of or trail(10.0, (len(step), 0)))


def test_a_border_that_was_judged_later_counts_in_finished_answers():
    finished, border = trail(10.0, (5, 0)), trail(10.0, (2, 50))
    assert finished.may_leave()
    assert not finished.behind(border, 2).may_leave()
    assert finished.behind(trail(10.0, (2, 4)), 2).state == (10.0,)


def test_an_answer_that_left_what_was_shown_cannot_be_given():
    root = Step(trail=trail())
    shown, other = Step(root, (1,)), Step(root, (2,))
    request = Request([1], [1], "", SearchConfig(), (), 0)
    row = Row(request, beams=[], released=Border(root, 0, "", root.trail))
    row.finished = [answer(Step(shown, (3,))), answer(Step(other, (4,))), answer(shown)]
    row.pass_border(Border(shown, 1, "a", trail(10.0, (1, 1))))
    assert [each.step.tokens for each in row.finished] == [(3,), (1,)]


@pytest.mark.parametrize("text", ["abcdefgh", "ab"])
def test_nothing_leaves_after_its_request_has_ended(text):
    requests, left = [], []

    def cancels(prompts, responses):
        requests[0].cancelled.set()
        return [0.0] * len(responses)

    guard = make_guard({text: 1.0}, cost=cancels, block_tokens=4, max_lag=0)
    handle = guard.prepare("Go.", stream=True)
    requests.append(handle.request)
    search = guard.components.start_search(
        Capacity.of(requests), on_release=lambda row, shown: left.append(shown), call=lambda ask: ask()
    )
    search.add_rows(requests)
    ended = []
    while not ended:
        ended = search.step()
    assert left == []
    assert ended[0].answer is None
    assert type(ended[0].error).__name__ == "RequestCancelledError"


def test_an_answer_that_goes_on_otherwise_than_its_stream_is_an_error():
    guard = make_guard({"Hello.": 1.0})
    handle = guard.prepare("Go.", stream=True)
    size = Capacity.of([handle.request])
    search = guard.components.start_search(size, on_release=lambda row, text: None, call=lambda ask: ask())
    search.add_rows([handle.request])
    ended = []
    while not ended:
        ended = search.step()
    handle.released(ended[0].row, "Good")
    handle.finished(ended[0])
    assert [handle._events.get(timeout=5).text] == ["Good"]
    assert isinstance(handle._events.get(timeout=5), InferenceGuardError)


def test_what_a_stop_string_left_alone_is_unsafe():
    """The whole lane would pass; what is left of it does not, and is what is verified."""
    judge = Judge(lambda text: text == "I will")
    guard = make_guard({"I will STOP it": 0.9, "No STOP": 0.1}, cost=judge, block_tokens=40)
    for seed in range(4):
        result = guard.generate("Go.", seed=seed, stop=[" STOP"])
        assert result.blocked or result.text == "No"


def test_a_token_judge_that_says_nothing_is_an_error():
    judge = tiny_scores(byte_tokenizer(), "cost")
    with torch.no_grad():
        judge.model.score_head.bias.fill_(float("nan"))
    with pytest.raises(JudgeError, match="NaN or an infinite score"):
        tiny_guard(costs={"cost": judge}, reward=None).generate("Go.")


def test_finalists_leave_no_trace_in_token_judges():
    """With a critic they are read behind the last border and taken back; what is read next costs what it does alone."""
    judge = tiny_scores(byte_tokenizer(), "cost", scale=0.3)
    guard = tiny_guard(
        costs={"cost": judge},
        budgets=[SafetyBudget(limit=50.0, discount=1.0)],
        reward=lambda p, r: [float(len(text)) for text in r],
        critic=Foresees(constant(9.0), constant(99.0)),
        search={"candidates": 12, "beams": 4, "block_tokens": 4, "max_new_tokens": 32},
    )
    waited = 0
    for seed in range(8):
        result = guard.generate("Go.", seed=seed)
        request = guard.request("Go.")
        ids = torch.tensor([[*request.judge_ids, *result.token_ids]])
        scores = judge.score_tokens(ids, torch.ones_like(ids))[0, len(request.judge_ids) :].detach()
        assert result.cost == pytest.approx(float(scores.sum()), abs=1e-3)
        waited += result.usage.judge_calls > 4
    assert waited
