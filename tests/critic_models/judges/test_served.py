"""Judges that vLLM serves say what the same model says in this process, and nothing else is a verdict."""

import math
import re
import time
from itertools import accumulate

import pytest
import torch
from transformers import LlamaForSequenceClassification

from critic_models.errors import ConfigurationError, JudgeError
from critic_models.identity import describe, unknown_parts
from critic_models.judges import (
    ClassifierJudge,
    ClassifyJudge,
    GuardJudge,
    TokenClassifyJudge,
    VerdictJudge,
    load_judge,
)
from critic_models.judges.templates import GuardTemplate
from critic_models.safety import SafetyBudget
from tests.critic_models.judges.test_guard_llm import LLAMA_STYLE, PROMPTS, RESPONSES, train_guard
from tests.kit.endpoint import Endpoint
from tests.kit.guards import make_guard
from tests.kit.tiny import tiny_config

TEXTS = ["fine", "", "a longer one </s> with a control token", "ü"]


class Vllm(Endpoint):
    """Answers as vLLM does, with real models; ``change`` makes something else of a reply."""

    def __init__(self, classifier=None, guard=None):
        super().__init__()
        self.classifier, self.guard, self.change = classifier, guard, lambda reply: reply
        self.reply = self.honest

    @torch.no_grad()
    def honest(self, body):
        if "prompt" in body:
            reply = {"choices": [self.verdict(at, ids, body) for at, ids in enumerate(body["prompt"])]}
        else:
            reply = {"data": [self.classes(at, ids, body) for at, ids in enumerate(body["input"])]}
        return 200, self.change(reply)

    def classes(self, at, ids, body):
        states = self.classifier.model(torch.tensor([ids])).last_hidden_state
        logits = self.classifier.score(states)[0]
        found = logits.softmax(-1) if body["use_activation"] else logits
        if body.get("task") == "token_classify":
            return {"index": at, "object": "pooling", "data": found.tolist()}
        return {"index": at, "label": "x", "probs": found[-1].tolist(), "num_classes": found.shape[-1]}

    def verdict(self, at, ids, body):
        logs = self.guard(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        said = int(logs.argmax())
        tokens = {f"token_id:{each}": float(logs[each]) for each in {said, *body["logprob_token_ids"]}}
        logprobs = {"tokens": [f"token_id:{said}"], "token_logprobs": [float(logs[said])], "top_logprobs": [tokens]}
        return {
            "index": at, "text": "", "finish_reason": "length", "token_ids": [said], "prompt_token_ids": ids,
            "logprobs": logprobs,
        }  # fmt: skip


@pytest.fixture
def serve():
    started = []

    def start(**models):
        started.append(Vllm(**models))
        return started[-1]

    yield start
    for each in started:
        each.stall.set()
        each.server.shutdown()
        each.server.server_close()


@pytest.fixture(scope="module")
def tokenizer(byte_tokenizer):
    return byte_tokenizer(LLAMA_STYLE)


@pytest.fixture(scope="module")
def classifier(tokenizer):
    torch.manual_seed(3)
    model = LlamaForSequenceClassification(tiny_config(tokenizer, num_labels=3)).eval()
    model.score.weight.data.normal_(std=1.0)
    return model


@pytest.fixture(scope="module")
def guard_llm(tokenizer):
    return train_guard(tokenizer, lead="\n\n", safe="safe", unsafe="unsafe", variables={})


@pytest.mark.parametrize("reads", ["response", "pair", "chat"])
def test_a_classifier_says_what_it_says_here(serve, classifier, tokenizer, reads):
    server = serve(classifier=classifier)
    here = ClassifierJudge(classifier, tokenizer, label=2, reads=reads)
    there = ClassifyJudge(server.base + "/classify", tokenizer=tokenizer, label=2, reads=reads, batch_size=3)
    prompts = ["q", "what is </s>?", "x", ""]
    assert there.score(prompts, TEXTS) == pytest.approx(here.score(prompts, TEXTS), abs=1e-5)
    assert [len(body["input"]) for body in server.asked] == [3, 1]
    ends = sum(ids.count(tokenizer.eos_token_id) for body in server.asked for ids in body["input"])
    assert ends == sum(here.encode(*pair, finished=True)["input_ids"].count(tokenizer.eos_token_id)
                       for pair in zip(prompts, TEXTS, strict=True)), "a text ended its own turn"  # fmt: skip


def test_a_raw_output_is_asked_for_without_activation(serve, classifier, tokenizer):
    server = serve(classifier=classifier)
    judge = ClassifyJudge(server.base + "/classify", tokenizer=tokenizer, label=0, raw=True)
    (score,) = judge.score(["q"], ["fine"])
    with torch.no_grad():
        ids = torch.tensor([tokenizer("fine")["input_ids"]])
        wanted = float(classifier.score(classifier.model(ids).last_hidden_state)[0, -1, 0])
    assert score == pytest.approx(wanted, abs=1e-5)
    assert judge.default_limit == 0.0


@pytest.mark.parametrize("over", ["worst", "mean"])
def test_scores_of_tokens_are_those_of_the_response_and_never_taken_back(serve, classifier, tokenizer, over):
    server = serve(classifier=classifier)
    judge = TokenClassifyJudge(
        server.base + "/pooling", tokenizer=tokenizer, label=1, reads="pair", over=over, model="m"
    )
    text = "some answer that grows"
    scores = judge.score(["q?"] * len(text), [text[: at + 1] for at in range(len(text))])
    assert scores == pytest.approx(list(accumulate(scores, max)), abs=1e-6)  # sums of other lengths round otherwise
    with torch.no_grad():
        ids = tokenizer("q?", text)["input_ids"]
        assert tokenizer.decode(ids[-len(text) :]) == text, "a byte a token, and nothing behind the response"
        states = classifier.model(torch.tensor([ids])).last_hidden_state
        mine = classifier.score(states)[0].softmax(-1)[-len(text) :, 1]
    means = mine.cumsum(0) / torch.arange(1, len(mine) + 1)
    assert scores[-1] == pytest.approx(float((mine if over == "worst" else means).max()), abs=1e-5)
    assert server.asked[0]["task"] == "token_classify"
    assert server.asked[0]["model"] == "m"


def test_a_guard_llm_says_what_it_says_here(serve, guard_llm, tokenizer):
    server = serve(guard=guard_llm)
    here, there = GuardJudge(guard_llm, tokenizer), VerdictJudge(server.base + "/v1/completions", tokenizer=tokenizer)
    assert there.lead == here.lead
    asked = len(server.asked)
    assert there.score(PROMPTS, RESPONSES) == pytest.approx(here.score(PROMPTS, RESPONSES), abs=1e-5)
    (body,) = server.asked[asked:]
    assert len(body["prompt"]) == len(PROMPTS)
    assert body["max_tokens"] == 1
    ids = there.question.ids("<s>", "</s><|turn|>safe")
    assert tokenizer.eos_token_id not in ids, "an answer must not end its own turn"


def test_what_is_no_clear_verdict_counts_as_unsafe(serve, guard_llm, tokenizer):
    server = serve(guard=guard_llm)
    judge = VerdictJudge(server.base + "/v1/completions", tokenizer=tokenizer)

    def vague(reply):
        for choice in reply["choices"]:
            (top,) = choice["logprobs"]["top_logprobs"]
            top.update(dict.fromkeys(top, -20.0))
        return reply

    server.change = vague
    assert judge.score(PROMPTS[:1], RESPONSES[:1]) == [1.0]


def edit(at, **fields):
    """A reply whose part ``at`` has other fields, which may be functions of the old ones."""

    def change(reply):
        (rows,) = reply.values()
        for name, value in fields.items():
            rows[at][name] = value(rows[at].get(name)) if callable(value) else value
        return reply

    return change


def tops(value):
    return edit(1, logprobs=lambda old: {**old, "top_logprobs": value(old["top_logprobs"])})


def swapped(reply):
    (rows,) = reply.values()
    return {**reply, next(iter(reply)): rows[::-1]}


COMMON = {
    "a part too few": lambda reply: {key: rows[:-1] for key, rows in reply.items()},
    "a part too many": lambda reply: {key: [*rows, rows[0]] for key, rows in reply.items()},
    "another order": swapped,
    "the same part twice": edit(1, index=0),
    "no index": edit(1, index=None),
    "texts": lambda reply: {key: ["a", "b"] for key in reply},
    "nothing": lambda reply: {},
    "a list": lambda reply: [1.0, 2.0],
}
CLASSES = {
    "no classes": edit(1, probs=None),
    "too few classes": edit(1, probs=[0.5]),
    "NaN": edit(1, probs=[0.5, math.nan, 0.1]),
    "beyond 1": edit(1, probs=[0.1, 1.5, 0.1]),
    "texts as classes": edit(1, probs=["0.1", "0.2", "0.3"]),
    "true": edit(1, probs=[True, True, True]),
}
TOKENS = {
    "a token too few": edit(1, data=lambda rows: rows[:-1]),
    "a token too many": edit(1, data=lambda rows: [*rows, rows[0]]),
    "one score for all": edit(1, data=[0.1, 0.2, 0.3]),
    "NaN at a token": edit(1, data=lambda rows: [*rows[:-1], [0.1, math.nan, 0.2]]),
    "too few labels at a token": edit(1, data=lambda rows: [*rows[:-1], [0.1]]),
    "base64": edit(1, data="AAAA"),
}
VERDICTS = {
    "another question": edit(1, prompt_token_ids=[1, 2]),
    "no prompt": edit(1, prompt_token_ids=None),
    "two tokens": edit(1, token_ids=lambda ids: ids * 2),
    "no logprobs": edit(1, logprobs=None),
    "a word left out": tops(lambda old: [dict(list(old[0].items())[1:])]),
    "NaN as a logprob": tops(lambda old: [dict.fromkeys(old[0], math.nan)]),
    "a probability beyond 1": tops(lambda old: [dict.fromkeys(old[0], 0.7)]),
    "nothing but zeros, which would be half safe": tops(lambda old: [dict.fromkeys(old[0], 0.0)]),
    "an infinite logprob": tops(lambda old: [dict.fromkeys(old[0], -1e999)]),
    "a whole number of hundreds of digits": tops(lambda old: [dict.fromkeys(old[0], -(10**400))]),
    "null": tops(lambda old: [dict.fromkeys(old[0])]),
    "two places": tops(lambda old: old * 2),
}


def judges(serve, classifier, guard_llm, tokenizer):
    server = serve(classifier=classifier, guard=guard_llm)
    yield server, ClassifyJudge(server.base + "/classify", tokenizer=tokenizer, label=1), {**COMMON, **CLASSES}
    yield server, TokenClassifyJudge(server.base + "/pooling", tokenizer=tokenizer, label=1), {**COMMON, **TOKENS}
    yield server, VerdictJudge(server.base + "/v1/completions", tokenizer=tokenizer), {**COMMON, **VERDICTS}


def test_whatever_is_no_verdict_is_an_error(serve, classifier, guard_llm, tokenizer):
    for server, judge, lies in judges(serve, classifier, guard_llm, tokenizer):
        for name, lie in lies.items():
            server.change = lie
            with pytest.raises(JudgeError):
                pytest.fail(f"{name} counted as a verdict: {judge.score(['p', 'q'], ['a', 'b'])}")
        server.change = lambda reply: reply
        assert len(judge.score(["p", "q"], ["a", "b"])) == 2


def test_all_have_a_deadline(serve, classifier, guard_llm, tokenizer):
    for server, judge, _ in judges(serve, classifier, guard_llm, tokenizer):
        server.reply, judge.seconds = lambda body, server=server: (server.stall.wait(20), server.honest(body))[1], 0.5
        started = time.monotonic()
        with pytest.raises(JudgeError, match=re.escape("took longer than 0.5 s")):
            judge.score(["p"], ["a"])
        assert time.monotonic() - started < 3
        server.reply = server.honest  # the next judge asks the server when it is made


def test_another_tokenizer_or_question_is_another_judge(serve, classifier, guard_llm, tokenizer, byte_tokenizer):
    """What a server reads is made here, so its owner's version does not speak of it."""
    server, other = serve(classifier=classifier, guard=guard_llm), byte_tokenizer(LLAMA_STYLE)
    other.add_tokens(["another word"])
    for kind in (ClassifyJudge, TokenClassifyJudge):
        one, two = (describe(kind(server.base, tokenizer=each, version="1")) for each in (tokenizer, other))
        assert one != two
        assert not list(unknown_parts(one))
    ask = "[INST] {prompt} {response} [/INST]"
    asked = (GuardTemplate("custom", ("safe",), ("unsafe",), text=text, lead="") for text in (ask, ask + " Or not?"))
    one, two = (describe(VerdictJudge(server.base, tokenizer=tokenizer, version="1", template=each)) for each in asked)
    assert one != two
    assert not list(unknown_parts(one))


def test_their_addresses(serve, classifier, guard_llm, tokenizer, tmp_path):
    server = serve(classifier=classifier, guard=guard_llm)
    tokenizer.save_pretrained(tmp_path)
    base = server.base.replace("http://", "{}+http://")
    judge = load_judge(f"{base.format('classify')}/m?label=2&reads=pair&tokenizer={tmp_path}", kind="cost")
    assert (type(judge), judge.label, judge.reads) == (ClassifyJudge, 2, "pair")
    judge = load_judge(f"{base.format('tokens')}/m?label=0&over=mean&tokenizer={tmp_path}", kind="cost")
    assert (type(judge), judge.label, judge.over, judge.model) == (TokenClassifyJudge, 0, "mean", "m")
    address = f"{base.format('verdict')}/m?tokenizer={tmp_path}"
    judge = load_judge(f"{address}&template=llama-guard", kind="cost")
    assert (type(judge), judge.question.template.name) == (VerdictJudge, "llama-guard")
    assert type(load_judge(address, kind="cost", template="llama-guard")) is VerdictJudge
    assert list(unknown_parts(describe(judge)))
    versioned = load_judge(address, kind="cost", judge_options={"version": "g-1"})
    assert not list(unknown_parts(describe(versioned)))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tokens+http://host/m", "needs tokenizer="),
        ("verdict+http://host/m", "needs tokenizer="),
        ("classify+http://host/m?reads=chat", "needs tokenizer="),
        ("tokens+http://host/m?over=last", "needs tokenizer="),
        ("verdict+http://host/m?label=1", "behind . may stand tokenizer"),
        ("classify+http://host/m?label=-1", "label=NUMBER"),
    ],
)
def test_what_cannot_be_asked_is_refused(address, said):
    with pytest.raises(ConfigurationError, match=said):
        load_judge(address, kind="cost")


def test_they_guard(serve, classifier, guard_llm, tokenizer):
    for server, judge, _ in judges(serve, classifier, guard_llm, tokenizer):
        judge.name = "marker"
        guard = make_guard({"This is fine.": 1.0}, cost=judge, budget=SafetyBudget(limit=1.0, accounting="worst"))
        assert guard.generate("hello").text == "This is fine."
        server.change = lambda reply: {}
        with pytest.raises(JudgeError):
            guard.generate("hello")
        server.change = lambda reply: reply
