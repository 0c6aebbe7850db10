"""Which start of a text no longer changes, and where a stop string cuts it."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from ig_plugins.search.cuts import cut_at_stop_strings
from ig_plugins.search.text import REPLACEMENT, SPARE, Detokenizer, first_stop, stable_length
from tests.kit.guards import make_guard
from tests.kit.tokenizer import byte_tokenizer

words = st.lists(st.text("abc", min_size=1, max_size=3), max_size=3)


@given(text=st.text("abc", max_size=12), stop=words)
def test_first_stop_is_the_earliest(text, stop):
    at = first_stop(text, stop)
    if at is None:
        assert not any(word in text for word in stop)
    else:
        assert any(text.startswith(word, at) for word in stop)
        assert not any(word in text[: at + len(word) - 1] for word in stop if text.startswith(word, at))


@given(text=st.text("abc", max_size=12), cut=st.integers(0, 12), stop=words)
def test_the_stable_start_of_a_text_stays_whatever_follows(text, cut, stop):
    """What may leave of a prefix without a stop string is never beyond where a later stop string begins."""
    prefix = text[:cut]
    if first_stop(prefix, stop) is None:
        at = first_stop(text, stop)
        assert stable_length(prefix, stop) <= (len(text) if at is None else at)


@given(text=st.text(max_size=8), cut=st.integers(0, 40))
def test_half_a_character_is_held_back(text, cut):
    tokenizer = byte_tokenizer()
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole, part = detokenizer.text(ids), detokenizer.text(ids[:cut])
    assert whole.startswith(part[: stable_length(part, [])])


@cache
def tokenizers():
    """Bytes; pieces of words with a space that is stripped at the start, and bytes for all else, as Llama's."""
    vocabulary = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *["▁a", "▁b", "a", "b", "c", "ab"],
    ]
    pieces = Tokenizer(BPE({token: at for at, token in enumerate(vocabulary)}, [("a", "b")], byte_fallback=True))
    pieces.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return byte_tokenizer(), PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token="<s>", eos_token="</s>")


@settings(max_examples=500)
@given(data=st.data(), which=st.integers(0, 1), new=st.integers(1, 6), reach=st.integers(1, 5))
def test_whatever_new_tokens_bring_into_a_text_is_in_its_tail(data, which, new, reach):
    tokenizer = tokenizers()[which]
    text = st.text("ab 🦫é", max_size=12).map(lambda text: tokenizer.encode(text, add_special_tokens=False))
    some = st.one_of(text, st.lists(st.integers(0, len(tokenizer) - 1), max_size=12))
    ids = [token for part in data.draw(st.lists(some, max_size=5)) for token in part] + [tokenizer.eos_token_id] * new
    ids = ids[: data.draw(st.integers(new, len(ids)))]
    detokenizer = Detokenizer(tokenizer)
    before, whole = detokenizer.text(ids[:-new]), detokenizer.text(ids)
    tail = detokenizer.tail(ids, new=new, reach=reach)
    words = {whole[at : at + size] for size in range(1, reach + 1) for at in range(len(whole) - size + 1)}
    assert all(word in tail for word in words if word not in before and REPLACEMENT not in word)


def test_a_long_answer_is_not_decoded_anew_at_every_block(monkeypatch):
    decoded, text = [], Detokenizer.text

    def watched(lanes, row):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Detokenizer, "text", lambda self, ids: decoded.append(len(ids)) or text(self, ids))
            cut_at_stop_strings(lanes, row)

    monkeypatch.setattr("ig_plugins.search.block_search.cut_at_stop_strings", watched)
    answer = "word " * 100
    guard = make_guard({answer: 1.0}, block_tokens=10, max_new_tokens=600, stop=["STOP"], candidates=2, beams=1)
    assert guard.generate("Go.").text == answer
    lanes = 2 * len(answer) / 10
    assert sum(decoded) < lanes * 2 * (10 + len("STOP") + SPARE)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8, 30])
@pytest.mark.parametrize(
    ("answer", "stop", "told"),
    [
        ("One two STOP three", ["STOP"], "One two "),
        ("One two STOP three", ["nothing", "wo S", "STOP"], "One t"),
        ("STOP at once", ["STOP"], ""),
        ("Naïve café 🦫 and more", ["🦫"], "Naïve café "),
        ("ends before STO", ["STOP"], "ends before STO"),
        ("aab aab aac", ["aac"], "aab aab "),
    ],
)
def test_stop_strings_over_block_edges_and_inside_characters(block, answer, stop, told):
    guard = make_guard({answer: 1.0}, block_tokens=block, stop=stop, candidates=2, beams=1)
    result = guard.generate("Go.")
    assert (result.text, result.finish_reason, result.blocked) == (told, "stop", False)
    assert "".join(chunk.text for chunk in guard.stream("Go.")) == told


def test_a_stop_string_behind_a_prefill():
    guard = make_guard({"there STOP x": 1.0}, stop=["STOP"], last_assistant="prefill")
    prompt = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello STOP"}]
    assert guard.generate(prompt).text == "there "
    assert "".join(chunk.text for chunk in guard.stream(prompt)) == "there "
