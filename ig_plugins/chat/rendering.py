"""Small steps from checked messages to what a chat template can read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.messages import Message, call_text
from ig_plugins.chat.special import special_ids
from ig_plugins.chat.tools import CALL_END, CALL_START
from ig_plugins.errors import ConfigurationError, PromptError


def native_turn(message: Message) -> dict[str, Any]:
    """A message as transformers' chat templates expect it."""
    turn = dict(message)
    if "tool_calls" in turn:
        turn["tool_calls"] = [
            {"type": "function", "id": c["id"], "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in turn["tool_calls"]
        ]
    return turn


def as_blocks(message: Message) -> dict[str, Any]:
    """A message whose content is a list of one text block."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def needs_blocks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template loses plain text contents, and shows them as blocks.

    Raises:
        ConfigurationError: It shows neither.
    """
    probe = {"role": "user", "content": "igprobe"}
    for blocks, turn in ((False, probe), (True, as_blocks(probe))):
        try:
            shown = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError, ValueError):
            continue
        if probe["content"] in str(shown):
            return blocks
    raise ConfigurationError(
        "this tokenizer's chat template does not show the text of a user message; choose prompt_format='plain'"
    )


def in_words(message: Message) -> dict[str, Any]:
    """A message for templates that know only system, user and assistant."""
    text = str(message["content"])
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of {message.get('name') or 'the function'}: {text}"}
    calls = [f"{CALL_START}{call_text(call)}{CALL_END}" for call in message.get("tool_calls", ())]
    return {"role": message["role"], "content": "\n".join([text, *calls] if text else calls or [""])}


def call_words(call: Mapping[str, Any]) -> str:
    """One tool call in plain text, for judges: what the tool gets, and not how the model wrote it.

    It begins as a sentence: judges learn from answers in prose, and take a bare list of words for anything.

    Args:
        call: With ``name`` and ``arguments``, as in ``ParsedReply.tool_calls``.
    """
    said = f"I call {call['name']}"
    words = argument_words(call["arguments"])
    return f"{said} with\n{words}" if words else said


def argument_words(arguments: Any) -> str:
    """A call's arguments as JSON whose strings and keys stand as they are, without escapes; nothing for none at all.

    Written like JSON, as that is how judges have seen calls; without escapes, as a tool gets none.
    """
    words: list[str] = []
    waiting: list[Any] = [arguments] if arguments else []  # no recursion: nesting is the model's choice
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Mark):
            words.append(value)
        elif isinstance(value, Mapping):
            inner = [part for key, item in value.items() for part in (_Mark(", "), _Mark(f'"{key}": '), item)]
            waiting += reversed([_Mark("{"), *inner[1:], _Mark("}")])
        elif isinstance(value, list | tuple):
            inner = [part for item in value for part in (_Mark(", "), item)]
            waiting += reversed([_Mark("["), *inner[1:], _Mark("]")])
        else:
            words.append(f'"{value}"' if isinstance(value, str) else json.dumps(value))
    return "".join(words)


class _Mark(str):
    """Between values, and no value itself."""


def indented(message: Message) -> dict[str, Any]:
    """A turn whose lines after the first are indented, so that no line of it reads as another turn's label."""
    return {**message, "content": "\n  ".join(str(message["content"]).splitlines())}


def with_head(turns: list[dict[str, Any]], head: str) -> list[dict[str, Any]]:
    """Put a text before the first system or user text."""
    index = next((i for i, turn in enumerate(turns) if turn["role"] in ("system", "user")), 0)
    turn = turns[index]
    return [*turns[:index], {**turn, "content": f"{head}\n\n{turn['content']}"}, *turns[index + 1 :]]


def without_system(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system text put before the first user text; where it stands alone, it is the user's."""
    if turns[0]["role"] != "system":
        return turns
    return with_head(turns[1:], turns[0]["content"]) if len(turns) > 1 else [{**turns[0], "role": "user"}]


def lone_results_in_words(turns: Sequence[Message]) -> list[Message]:
    """Results of tools that answer no call before them, in words: templates show results behind calls alone."""
    called = False
    told: list[Message] = []
    for turn in turns:
        called = bool(turn.get("tool_calls")) or (called and turn["role"] == "tool")
        told.append(in_words(turn) if turn["role"] == "tool" and not called else turn)
    return told


def alternating(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join turns of one role in a row by a blank line."""
    joined: list[dict[str, Any]] = []
    for turn in turns:
        if joined and joined[-1]["role"] == turn["role"]:
            joined[-1] = {**turn, "content": f"{joined[-1]['content']}\n\n{turn['content']}"}
        else:
            joined.append(turn)
    return joined


def folded(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For strict templates: no system role, and user and assistant by turns, the user first."""
    turns = without_system(turns)
    if turns[0]["role"] == "assistant" and len(turns) > 1 and "tool_calls" not in turns[0]:
        turns = with_head(turns[1:], f"You began this conversation: {turns[0]['content']}")
    return alternating(turns) if not any("tool_calls" in turn for turn in turns) else turns


def inside(tokenizer: PreTrainedTokenizerBase, text: str, *, trusted: bool) -> list[int]:
    """Tokens of a text that stands inside another: no BOS, and no blank that SentencePiece puts before a start.

    Args:
        tokenizer: The policy's.
        text: What to encode.
        trusted: The text is ours, and its special tokens are meant; else they are encoded as text.
    """

    def encode(words: str) -> list[int]:
        return list(tokenizer.encode(words, add_special_tokens=False, split_special_tokens=not trusted))

    newline, ids = encode("\n"), encode("\n" + text)
    ids = ids[len(newline) :] if newline and ids[: len(newline)] == newline else encode(text)
    if not trusted and set(ids) & special_ids(tokenizer) - {tokenizer.unk_token_id}:
        return encode(str(broken({"content": text}, tokenizer)["content"]))
    return ids


def broken(message: Message, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A message whose control tokens are split by a blank, for vocabularies that know no other way."""
    tokens = _control_tokens(tokenizer)

    def split(value: Any) -> Any:
        if isinstance(value, str):
            for token in tokens:
                value = value.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else " ")
            return value
        if isinstance(value, Mapping):
            return {key: split(item) for key, item in value.items()}
        return [split(item) for item in value] if isinstance(value, list) else value

    return {key: value if key == "role" else split(value) for key, value in message.items()}


def check_keys(tokenizer: PreTrainedTokenizerBase, value: Any) -> None:
    """Refuse control tokens in the keys of arguments: sanitising covers values only."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if any(token in str(key) for token in _control_tokens(tokenizer)):
                raise PromptError(f"a tool call has an argument named {str(key)!r}, which contains a control token")
            check_keys(tokenizer, item)
    elif isinstance(value, list):
        for item in value:
            check_keys(tokenizer, item)


def check_words(tokenizer: PreTrainedTokenizerBase, value: Any, where: str) -> None:
    """Refuse control tokens anywhere in a value: sanitising covers messages only.

    Raises:
        PromptError: There is one.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    if found := next((token for token in _control_tokens(tokenizer) if token in text), None):
        raise PromptError(f"{where} holds the control token {found!r}; leave it out")


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Special and added tokens, longest first, without those of white space that some vocabularies add."""
    return sorted((str(t) for t in tokenizer.added_tokens_encoder if str(t).strip()), key=len, reverse=True)


def shared_start(*sequences: Sequence[Any]) -> int:
    """How many leading items all sequences have in common."""
    shortest = min(map(len, sequences))
    return next((i for i in range(shortest) if any(s[i] != sequences[0][i] for s in sequences)), shortest)
