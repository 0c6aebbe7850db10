"""When text is settled, and where a stop string cuts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ig_plugins.search.text import Detokenizer, first_stop, settled
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
def test_settled_text_stays_whatever_follows(text, cut, stop):
    """What may leave of a prefix without a stop string is never beyond where a later stop string begins."""
    prefix = text[:cut]
    if first_stop(prefix, stop) is None:
        at = first_stop(text, stop)
        assert settled(prefix, stop) <= (len(text) if at is None else at)


@given(text=st.text(max_size=8), cut=st.integers(0, 40))
def test_half_a_character_is_held_back(text, cut):
    tokenizer = byte_tokenizer()
    detokenizer = Detokenizer(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole, part = detokenizer.text(ids), detokenizer.text(ids[:cut])
    assert whole.startswith(part[: settled(part, [])])


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
    guard = make_guard({"there STOP x": 1.0}, stop=["STOP"])
    prompt = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello STOP"}]
    assert guard.generate(prompt).text == "there "
    assert "".join(chunk.text for chunk in guard.stream(prompt)) == "there "
