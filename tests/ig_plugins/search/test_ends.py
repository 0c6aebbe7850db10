"""Where an answer ends: at stop tokens, at an invented turn, and never inside a character."""

import pytest

from ig_plugins.chat import special_in, turn_ids
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard.policies import make_policy
from tests.kit.guards import make_guard
from tests.kit.tiny import tiny_llama
from tests.kit.tokenizer import byte_tokenizer

INVENTED = "Fine.\n<|im_start|>user\nMore?\n<|im_start|>assistant\nYes."


def both(guard, **options):
    """The text and the reason, the same of a stream."""
    result = guard.generate("Go.", **options)
    assert "".join(chunk.text for chunk in guard.stream("Go.", **options)) == result.text
    return result.text, result.finish_reason


@pytest.mark.parametrize("block", [1, 3, 8, 40])
@pytest.mark.parametrize(
    ("stop", "told"),
    [
        ([], "Fine.\nuser\nMore?\nassistant\nYes."),  # the policy of this test does not know what ends a turn
        ("<|im_start|>", "Fine.\n"),
        ("\n<|im_start|>user", "Fine.\n"),
        (["ne", "<|im_start|>"], "Fi"),
        (["More", "<|im_start|>"], "Fine.\n"),
    ],
)
def test_special_tokens_in_stop_strings_end_the_answer(block, stop, told):
    """They are not in the shown text, where a stop string is looked for."""
    guard = make_guard({INVENTED: 1.0}, chat=True, block_tokens=block, candidates=2, beams=1)
    assert both(guard, stop=stop) == (told, "stop")


@pytest.mark.parametrize("block", [1, 8])
def test_stop_token_ids_end_the_answer(block):
    guard = make_guard({"One two three": 1.0}, block_tokens=block, candidates=2, beams=1)
    (token,) = guard.tokenizer.encode("t", add_special_tokens=False)
    assert both(guard, stop_token_ids=[token]) == ("One ", "stop")
    assert both(guard, stop_token_ids=[]) == ("One two three", "stop")
    with pytest.raises(ConfigurationError, match="stop_token_ids"):
        guard.generate("Go.", stop_token_ids=["t"])


def test_what_is_judged_is_what_leaves_before_a_stop_token():
    read = []
    guard = make_guard({INVENTED: 1.0}, chat=True, cost=lambda p, r: read.extend(r) or [-1.0] * len(r))
    assert guard.generate("Go.", stop="<|im_start|>").text == "Fine.\n"
    assert read[-1] == "Fine.\n"


def test_an_invented_turn_ends_the_answer_of_a_loaded_model():
    """Its marks are special tokens, which no text shows; what it invents would look like a part of the answer."""
    tokenizer = byte_tokenizer(chat=True)
    marks = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>")}
    assert marks <= turn_ids(tokenizer)
    assert marks <= make_policy(tiny_llama(tokenizer), tokenizer).stop_ids


def test_models_that_write_their_own_marks_may_go_on():
    tokenizer = byte_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{{ '<|im_end|>' if m.role == 'assistant' }}{{ m.content }}"
        "{{ '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant' if add_generation_prompt }}"
    )
    assert turn_ids(tokenizer) == frozenset()
    tokenizer.chat_template = None
    assert turn_ids(tokenizer) == frozenset()


def test_the_first_special_token_of_a_stop_string_counts():
    tokenizer = byte_tokenizer(chat=True)
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
    assert special_in(tokenizer, ["x", "<|im_end|>\n<|im_start|>"]) == {end}
    assert special_in(tokenizer, ["<|im_start|>user", "<|im_end|>"]) == {start, end}
    assert special_in(tokenizer, []) == frozenset()


# ---- max_tokens inside a character ----


@pytest.mark.parametrize("block", [1, 2, 3, 8, 40])
def test_max_tokens_inside_an_emoji_leaves_no_half_of_it(block):
    answer = "Hi 🙂🙂 there"
    guard = make_guard({answer: 1.0}, block_tokens=block, candidates=2, beams=1)
    size = len(answer.encode())
    for tokens in range(1, size + 2):
        text, reason = both(guard, max_tokens=tokens)
        assert text == answer.encode()[:tokens].decode(errors="ignore")
        assert reason == ("length" if tokens <= size else "stop")
        result = guard.generate("Go.", max_tokens=tokens)
        assert guard.tokenizer.decode(result.token_ids, skip_special_tokens=True) == text


def test_half_a_character_is_not_judged_either():
    read = []
    guard = make_guard({"Hi 🙂": 1.0}, cost=lambda p, r: read.extend(r) or [-1.0] * len(r), block_tokens=16)
    assert guard.generate("Go.", max_tokens=5).text == "Hi "
    assert not any("�" in text for text in read)
