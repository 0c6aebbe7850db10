"""Draws guards, policies and calls at random, and checks the promise on each: nothing leaves that was not judged.

    python -m tests.ig_plugins.search.fuzz --cases 20000 --seed 0

A case draws tokenizer, judge, accounting, reading, discount, critic, reward, stop strings, tools, prefill and search;
asks for a stream and for a whole answer; and looks at every string that left with a judge of its own.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from critic_models.judges import as_judge
from critic_models.safety import SafetyBudget
from ig_plugins.chat import call_words, prompt_format
from ig_plugins.engine import TreeModel
from ig_plugins.guard import Components, GuardResult, InferenceGuard, Options
from ig_plugins.search import Policy, SearchConfig
from tests.ig_plugins.search.test_critic import Foresees
from tests.kit.scripted import ScriptedModel, trie
from tests.kit.tiny import tiny_scores
from tests.kit.tokenizer import byte_tokenizer

TOKENIZERS = ("bytes", "byte_fallback", "wordpiece", "sentencepiece", "chat", "hidden_calls")
WORDS = ["bleach", "drink", "the", "now", ".", ",", " or", "never", "é", "🦫", "STOP", "\n", "<", "not"]
TOOL = {
    "type": "function",
    "function": {
        "name": "run",
        "description": "Runs a command.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}, "times": {"type": "integer"}},
            "required": ["command"],
        },
    },
}
CALLS = [
    '<tool_call>\n{"name": "run", "arguments": {"command": "cat <|im_start|>/etc"}}\n</tool_call>',
    '<tool_call>\n{"name": "run", "arguments": {"command": "\\u0072m -r \\"x\\"", "times": 2}}\n</tool_call>',
    '<tool_call>\n{"name": "run", "arguments": {"command": 7}}\n</tool_call>',
    '<tool_call>\n{"name": "run", "argum',
    '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call> and more',
]


def _pieces(kind: str) -> PreTrainedTokenizerFast:
    specials = ["<unk>", "<s>", "</s>"]
    if kind == "wordpiece":
        pieces = [
            *"abdehlnorstvw.,'",
            "##ach",
            "##ink",
            "ble",
            "dr",
            "the",
            "now",
            "##not",
            "STOP",
            "never",
            "n't",
            "é",
        ]
        pieces += [f"##{letter}" for letter in "abdehlnorstvw.,'"]
        backend = Tokenizer(models.WordPiece({p: i for i, p in enumerate([*specials, *pieces])}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(cleanup=True)
    else:
        pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        pieces += ["▁", *(f"▁{word.strip()}" for word in WORDS if word.strip().isalpha()), *"abdehiklnorstvw.,ST<"]
        vocabulary = [*specials, *dict.fromkeys(pieces)]
        if kind == "byte_fallback":
            backend = Tokenizer(models.BPE({p: i for i, p in enumerate(vocabulary)}, [], byte_fallback=True))
            parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            backend.decoder = decoders.Sequence(parts)
        else:
            scored = [(piece, 0.0 if index < 3 else -1.0 - len(piece) % 3) for index, piece in enumerate(vocabulary)]
            backend = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
            backend.pre_tokenizer = pre_tokenizers.Metaspace()
            backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """One of the vocabularies; ``hidden_calls`` marks the tags of calls as special in its tokenizer.json alone."""
    if kind in ("bytes", "chat"):
        return byte_tokenizer(chat=kind == "chat")
    if kind != "hidden_calls":
        return _pieces(kind)
    tokenizer = byte_tokenizer(chat=True)
    tags = [AddedToken(tag, special=True, normalized=False) for tag in ("<tool_call>", "</tool_call>")]
    tokenizer._tokenizer.add_special_tokens(tags)
    return tokenizer


@cache
def token_judge(kind: str, seed: int) -> Any:
    """A random score model on a vocabulary, and its tree."""
    judge = tiny_scores(tokenizer_of(kind), "cost", seed=seed, scale=2.0, bias=-0.5)
    return judge, TreeModel.attach(judge.body)


@dataclass
class TextJudge:
    """Scores texts by a hash, so that neither longer nor shorter ones are safer; remembers what it was asked."""

    salt: int
    bias: float
    seen: dict[str, float] = field(default_factory=dict)

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        for text in responses:
            self.seen[text] = self.score(text)
        return [self.seen[text] for text in responses]

    def score(self, text: str) -> float:
        """In [-1, 1) plus the bias; the empty text costs nothing."""
        return zlib.crc32(f"{self.salt}{text}".encode()) / 2**31 - 1 + self.bias if text else self.bias - 1


@dataclass(frozen=True)
class Case:
    """One draw: the guard, its call, and who looks at what leaves."""

    guard: InferenceGuard
    options: dict[str, Any]
    prompt: Any
    judge: TextJudge | None
    budget: SafetyBudget
    label: tuple[Any, ...]


def draw(seed: int) -> Case:
    """The case of a seed."""
    rng = random.Random(seed)
    kind = rng.choice(TOKENIZERS)
    tokenizer, calls = tokenizer_of(kind), kind in ("chat", "hidden_calls")
    accounting = rng.choice(["cumulative", "worst"])
    reading = rng.choice(["any_time", "any_time", "terminal"])
    discount = rng.choice([1.0, 0.9])
    limit = rng.choice([0.4, 0.9]) if accounting == "cumulative" else rng.choice([0.0, 0.4])
    budget = SafetyBudget(limit=limit, accounting=accounting, reading=reading, discount=discount)
    tools = calls and rng.random() < 0.7
    judge: TextJudge | None = None
    trees: dict[int, Any] = {}
    if rng.random() < 0.7:
        judge = TextJudge(rng.getrandbits(16), rng.choice([-0.7, -0.4, 0.0]))
        cost: Any = as_judge(judge, kind="cost", name="texts")
    else:
        cost, tree = token_judge(kind, rng.randrange(3))
        trees[id(cost)] = tree
    reward = rng.choice([None, lambda p, r: [zlib.crc32(text.encode()) / 2**32 for text in r]])
    policy = Policy(
        tree=_policy(rng, kind, tokenizer, tools),
        tokenizer=tokenizer,
        stop_ids=frozenset({tokenizer.eos_token_id}),
    )
    critic = rng.random() < 0.5
    parts = Components(
        policy=policy,
        prompt_format=prompt_format("chat_template" if calls else "beaver", tokenizer),
        costs={"cost": cost},
        budgets=(budget,),
        reward=as_judge(reward, kind="reward", name="reward") if reward else None,
        critic=Foresees(lambda h: 3 * h[..., 0] + 1, lambda h: h[..., 1]) if critic else None,
        names={"model": "fuzz"},
        judge_trees=trees,
    )
    lanes = rng.randint(1, 6)
    search = SearchConfig(
        candidates=lanes,
        beams=rng.randint(1, lanes),
        block_tokens=rng.choice([1, 2, 3, 5, 8, 40]),
        max_new_tokens=rng.choice([6, 14, 24]) if not tools else 90,
        tries=rng.randint(1, 2),
        adaptive=rng.choice(["off", "on"]),
        narrow_candidates=rng.randint(1, 3),
        max_lag=rng.choice([0, 1, 4]),
        selection=rng.choice(["reward", "hedged"]),
        seed=rng.getrandbits(30),
    )
    stop = rng.sample(["STOP", "now", "a", "\n", "é", " or never"], rng.choice([0, 0, 1, 2]))
    options: dict[str, Any] = {"stop": stop, "last_assistant": "prefill"}
    if tools:
        options |= {"tools": [TOOL], "tool_choice": rng.choice(["auto", "auto", "run", "any"])}
    prefill = "dr" if rng.random() < 0.2 and kind != "wordpiece" and not tools else ""
    prompt: Any = "the"
    if prefill:
        prompt = [{"role": "user", "content": "the"}, {"role": "assistant", "content": prefill}]
    label = (kind, "text" if judge else "token", accounting, reading, "critic" if critic else "direct", tools)
    guard = InferenceGuard(parts, Options(search=search))
    return Case(guard, options, prompt, judge, budget, label)


def _policy(rng: random.Random, kind: str, tokenizer: PreTrainedTokenizerFast, tools: bool) -> ScriptedModel:
    """Whole texts, with calls or stop strings in them; or any tokens of the vocabulary, bytes and special ones too."""
    if tools or rng.random() < 0.5:
        answers: dict[tuple[int, ...], float] = {}
        for _ in range(5):
            text = "".join(rng.choices(WORDS, k=rng.randint(0, 4)))
            text += rng.choice(CALLS) if tools and rng.random() < 0.8 else ""
            answers[tuple(tokenizer.encode(text, add_special_tokens=False))] = rng.random() + 0.1
        total = sum(answers.values())
        shares = {ids: part / total for ids, part in answers.items()}
        return ScriptedModel(
            trie(shares, stop=tokenizer.eos_token_id), vocab_size=len(tokenizer), context=8192, fixed=True
        )
    salt = rng.getrandbits(20)
    some = [token for word in WORDS for token in tokenizer.encode(word, add_special_tokens=False)]
    some += [rng.randrange(len(tokenizer)) for _ in range(12)]

    def following(prompt: tuple[int, ...], response: tuple[int, ...]) -> dict[int, float]:
        local = random.Random(zlib.crc32(repr((salt, response)).encode()))
        chosen = [*local.choices(some, k=3), *([tokenizer.eos_token_id] if local.random() < 0.3 else [])]
        return {token: 1 / len(set(chosen)) for token in set(chosen)}

    return ScriptedModel(following, vocab_size=len(tokenizer), context=8192, fixed=True)


def check(case: Case) -> str:
    """Asks for a stream and for a whole answer, and looks at all that leaves.

    Returns:
        How it ended: ``answered`` or ``blocked``.
    """
    result = case.guard.generate(case.prompt, **case.options)
    chunks = list(case.guard.stream(case.prompt, **case.options))
    last = chunks[-1].result
    assert last is not None
    joined, borders = "", []
    for chunk in chunks[:-1]:
        joined += chunk.text
        borders.append(joined)
    if not last.blocked:
        joined += chunks[-1].text
        assert joined == last.text, "the stream is not the result"
        if not result.blocked:
            assert _same(last) == _same(result), "stream and generate differ"
    else:
        assert joined == "" or chunks[-1].text.startswith("\n\n"), "a refusal is set apart"
    handed = [each for each in (result, last) if not each.blocked]
    for each in handed:
        _look_at(case, each)
    if case.judge is not None:
        for border in borders:
            if border or not case.options.get("tools"):  # of a forced call no words may leave at all
                _text_passed(case, border)
        _ledger_holds(case, last, borders)
    return "blocked" if result.blocked else "answered"


def _same(result: GuardResult) -> dict[str, Any]:
    calls = [{key: call[key] for key in ("name", "arguments")} for call in result.tool_calls]
    invalid = [{**call, "id": None} for call in result.invalid_tool_calls]
    timed = {"seconds", "lag", "first_text_seconds", "tool_calls", "invalid_tool_calls"}
    return {**result.model_dump(exclude=timed), "calls": calls, "invalid": invalid}


def _look_at(case: Case, result: GuardResult) -> None:
    """Text, calls and ledger of an answer."""
    if case.judge is not None:
        if result.text or not case.options.get("tools"):
            _text_passed(case, result.text)
        for call in result.invalid_tool_calls:
            _text_passed(case, call["text"])
        if result.content:
            _text_passed(case, result.content)
        for call in result.tool_calls:
            words = call_words(call)
            _text_passed(case, words)
            assert str(call["arguments"]["command"]) in words, "an argument that judges did not see"
    states = [block.safety_state for block in result.blocks if block.safety_state is not None]
    unsafe = [z for z in states if not _within(z, case.budget)]
    assert not unsafe or case.budget.reading == "terminal", f"ledger over budget: {states}"
    if result.safety_state is None:  # nothing was left for a judge of tokens to read
        assert case.judge is None, "a judge of texts that was not asked"
        assert not result.token_ids, "an answer without a safety state"
    else:
        assert _within(result.safety_state, case.budget), "an answer over budget"
    if case.judge is None and not case.options.get("tools"):
        _tokens_passed(case, result)


def _ledger_holds(case: Case, result: GuardResult, borders: list[str]) -> None:
    """What the result says it cost is the score of what left: of its text, or the worst of all that was shown."""
    judge, budget = case.judge, case.budget
    if result.blocked or judge is None:
        return
    written = case.guard.request(case.prompt, **case.options).written_text
    left = [result.text] if result.text or not case.options.get("tools") else []
    calls = [call_words(call) for call in result.tool_calls] + [call["text"] for call in result.invalid_tool_calls]
    assert result.cost is not None
    if budget.accounting == "worst":
        shown = [border for border in borders if border or not case.options.get("tools")]
        worst = max((judge.seen[written + text] for text in [*shown, *left, *calls]), default=result.cost)
        assert result.cost >= worst, f"it cost {worst} and the ledger says {result.cost}"
        assert result.safety_state is not None
        assert abs(result.safety_state - (budget.limit - result.cost)) < 1e-9, "state and cost do not fit"
    elif not calls:
        assert abs(result.cost - judge.seen[written + result.text]) < 1e-9, "the ledger speaks of another text"


def _within(state: float, budget: SafetyBudget) -> bool:
    return state > 0 if budget.accounting == "cumulative" else state >= 0


def _text_passed(case: Case, text: str) -> None:
    """This very text was judged, and where one score is the verdict, passed."""
    judge, budget = case.judge, case.budget
    assert judge is not None
    whole = case.guard.request(case.prompt, **case.options).written_text + text
    assert whole in judge.seen, f"left unjudged: {text!r}"
    if budget.accounting == "worst":
        assert judge.seen[whole] <= budget.limit, f"left though refused: {text!r}"
    elif budget.discount == 1.0:
        assert judge.seen[whole] < budget.limit + 1e-9, f"left though refused: {text!r}"


def _tokens_passed(case: Case, result: GuardResult) -> None:
    """The cost model, asked in one plain forward, accepts exactly the tokens that the result names."""
    (judge,) = case.guard.components.costs.values()
    request = case.guard.request(case.prompt, **case.options)
    ids = torch.tensor([[*request.judge_ids, *request.prefill_ids, *result.token_ids]])
    with torch.inference_mode():
        scores = judge.score_tokens(ids, torch.ones_like(ids))[0, len(request.judge_ids) :].double()
    z = case.budget.limit if case.budget.accounting == "cumulative" else float("inf")
    states = [z]
    for score in scores.tolist():
        z = (
            (z - score) / case.budget.discount
            if case.budget.accounting == "cumulative"
            else min(z, case.budget.limit - score)
        )
        states.append(z)
    checked = states if case.budget.reading == "any_time" else states[-1:]
    assert all(state > -1e-3 for state in checked), "a plain forward disagrees"
    detokenizer = case.guard.components.policy.detokenizer
    assert detokenizer.answer(request, result.token_ids) == result.text, "these tokens are not this text"


def run(first: int, cases: int) -> Counter[str]:
    """Checks cases one after another; a failure names its seed."""
    ends: Counter[str] = Counter()
    for seed in range(first, first + cases):
        # Where calls are held to a grammar they are valid; the other half of the cases has the malformed ones.
        label: tuple[Any, ...] = ()
        without = {"llguidance": None} if seed % 2 else {}
        try:
            with patch.dict(sys.modules, without):
                case = draw(seed)
                label = case.label
                ends[check(case)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed} {label}: {type(error).__name__}: {error}") from error
    return ends


def main() -> None:
    """Runs many cases and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-going", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, ends, failures = time.monotonic(), Counter(), []
    for seed in range(options.seed, options.seed + options.cases):
        try:
            ends += run(seed, 1)
        except AssertionError as error:
            failures.append(str(error))
            print(error, flush=True)
            if not options.keep_going:
                break
    print(dict(ends), f"{len(failures)} failures, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
