"""Free words in which calls that are begun are held to their tools, on vocabularies whose tokens straddle the mark."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ig_plugins.chat import PROMPTED, as_tools
from ig_plugins.chat.syntax import ToolSyntax
from ig_plugins.grammar import Calls, FreeCalls, compiler, started_call
from tests.kit.tokenizer import EOS, PAD, byte_tokenizer

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
TOOLS = as_tools([{"name": "weather", "parameters": CITY}, {"name": "stop", "parameters": {}}])
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
MERGED = [" <", "tool", "tool_", "call", ">{", "<tool", '>{"', "}}", "></", ">)", "x<tool_call>", "y<tool_call>)"]


@dataclass(eq=False)
class Model:
    """What a grammar is made for."""

    tokenizer: PreTrainedTokenizerFast
    stop_ids: frozenset[int]
    tree: SimpleNamespace


def model(*merged: str, special: tuple[str, ...] = ()) -> Model:
    """Single bytes, and whole texts as further tokens that no merge makes: tests say them by their ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([PAD, EOS, *special])
    backend.add_tokens([AddedToken(text, normalized=False) for text in merged])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=EOS)
    return Model(tokenizer, frozenset({tokenizer.eos_token_id}), SimpleNamespace(vocab_size=len(tokenizer)))


def free(policy: Model, syntax: ToolSyntax = PROMPTED, *, max_tokens: int = 400) -> FreeCalls:
    started = started_call(policy.tokenizer, syntax, TOOLS)
    assert started is not None
    return FreeCalls(Calls(compiler(policy), started, max_tokens))


def ids(policy: Model, *pieces: str) -> list[int]:
    """Each piece is a token if the vocabulary has it, else bytes."""
    known = policy.tokenizer.get_vocab()
    byte = {each: known[token] for each, token in zip(range(256), _byte_tokens(), strict=True)}
    return [
        token
        for piece in pieces
        for token in ([known[piece]] if piece in known else [byte[each] for each in piece.encode()])
    ]


def _byte_tokens() -> list[str]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [each for each in range(256) if each not in plain]
    return [chr(each) if each in plain else chr(256 + others.index(each)) for each in range(256)]


def allowed(policy: Model, state: FreeCalls) -> set[int]:
    bits = state.allowed(torch.zeros(policy.tree.vocab_size))
    if bits is None:
        return set(range(policy.tree.vocab_size))
    mask = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little", count=policy.tree.vocab_size)
    return set(mask.nonzero()[0].tolist())


@pytest.fixture(scope="module")
def policy() -> Model:
    return model(*MERGED)


def test_words_are_free(policy):
    """Whatever is no call stays as it is, the beginnings of a mark among it; every token may come."""
    state = free(policy)
    for piece in ("If a < b, ", "<tool", " or <<", "tool", "-call>", "é", "<tool_cal", "l"):
        for token in ids(policy, piece):
            state = state.after([token])
            assert state.complete
            assert not state.ended
    assert free(policy).allowed(torch.zeros(policy.tree.vocab_size)) is None or "x<tool_call>" in MERGED
    assert allowed(policy, free(policy).after(ids(policy, "Well, "))) == set(range(policy.tree.vocab_size)) - set(
        ids(policy, "y<tool_call>)")
    )


@pytest.mark.parametrize(
    "start",
    [
        ("<tool_call>", "{"), ("<tool", "_", "call", ">{"), ("So:", " <", "tool_", "call", '>{"'),
        ("<", "<tool_call", ">{"),
        ("a x<tool_call", '>{"'), ("x<tool_call>", "{"), ("<tool_call<tool_call", ">{"),
    ],
)  # fmt: skip
def test_however_a_mark_is_spelled_the_call_behind_it_is_held(policy, start):
    said, state = [], free(policy)
    for token in ids(policy, *start):
        assert token in allowed(policy, state)
        said, state = [*said, token], state.after([token])
    rest = CALL[len("<tool_call>") + len(start[-1].removeprefix(">")) :]
    while rest:
        assert not state.complete, "max_tokens would cut it off here"
        token = next(
            each
            for each in sorted(allowed(policy, state))
            if rest.encode().startswith(compiler(policy).vocabulary[each])
        )
        rest = rest[len(compiler(policy).vocabulary[token]) :]
        said, state = [*said, token], state.after([token])
    assert state.complete
    assert allowed(policy, state.after(ids(policy, " ok"))) >= set(ids(policy, "!", "<", ">{"))
    assert allowed(policy, free(policy).after(said)) == allowed(policy, state), "the same from its tokens anew"


def test_a_mark_is_not_finished_by_what_begins_no_call(policy):
    near = free(policy).after(ids(policy, "a <tool_call"))
    everything = set(range(policy.tree.vocab_size))
    assert everything - allowed(policy, near) == set(ids(policy, "></", ">)", "y<tool_call>)"))
    assert allowed(policy, near.after(ids(policy, ">"))) == set(ids(policy, "{"))
    inside = near.after(ids(policy, ">{", '"name": "'))
    assert allowed(policy, inside) == set(ids(policy, "w", "s"))


def test_a_call_that_has_no_room_is_not_begun(policy):
    """Forty tokens or so take a call of the tool without arguments."""
    for room, goes in ((10, False), (300, True)):
        near = free(policy, max_tokens=100 + room).after(ids(policy, "a" * (100 - 10), "<tool_call"))
        finishing = set(ids(policy, ">", ">{"))
        assert (finishing <= allowed(policy, near)) is goes
        assert goes or not finishing & allowed(policy, near)


def test_a_mark_that_is_a_special_token():
    """As Mistral's; the shown text has none, and no text spells it."""
    policy = model(special=("[CALL]",))
    syntax = ToolSyntax(
        marker="", start="[CALL]", end="[/CALL]", before_name='[CALL]{"name": "',
        after_name='", "arguments":', native=True,
    )  # fmt: skip
    state = free(policy, syntax).after(ids(policy, "I see [CALL", "."))
    assert state.complete
    begun = free(policy, syntax).after(ids(policy, "I see", "[CALL]"))
    assert not begun.complete
    assert allowed(policy, begun) == set(ids(policy, "{"))
    short = free(policy, syntax, max_tokens=20)
    assert set(range(policy.tree.vocab_size)) - allowed(policy, short) == set(ids(policy, "[CALL]"))


def test_every_draw_behind_a_mark_is_a_valid_call():
    """The likeliest tokens are random ones; each call parses and fits, and ends within max_tokens."""
    tokenizer = byte_tokenizer()
    policy = Model(tokenizer, frozenset({tokenizer.eos_token_id}), SimpleNamespace(vocab_size=len(tokenizer)))
    generator = torch.Generator().manual_seed(0)
    names = set()
    for _ in range(20):
        said = tokenizer.encode("Well. <tool_call>", add_special_tokens=False)
        state = free(policy, max_tokens=160).after(said)
        while not state.complete:
            scores = torch.randn(policy.tree.vocab_size, generator=generator)
            bits = np.frombuffer(state.allowed(scores), dtype=np.uint8)
            mask = torch.from_numpy(np.unpackbits(bits, bitorder="little", count=len(scores))).bool()
            said.append(int(scores.masked_fill(~mask, -torch.inf).argmax()))
            state = state.after(said[-1:])
        text = tokenizer.decode(said)
        assert len(said) <= 160
        call = json.loads(text.removeprefix("Well. <tool_call>").removesuffix("</tool_call>"))
        names.add(call["name"])
        assert call["name"] == "stop" or isinstance(call["arguments"]["city"], str)
    assert names == {"weather", "stop"}
