"""LlamaIndex's messages in the core's words."""

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    CitableBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from ig_plugins.chat import as_messages
from ig_plugins.errors import PromptError
from llama_index.llms.inferenceguard._convert import ROLES, to_messages


def test_every_role_is_known():
    assert set(ROLES) == set(MessageRole)
    assert {to_messages([ChatMessage(role=role, content="x")])[0]["role"] for role in MessageRole} == {
        "system",
        "user",
        "assistant",
        "tool",
    }


def test_blocks_become_text_in_order_and_thinking_is_left_out():
    cited = CitableBlock(title="Manual", source="page 3", content=[TextBlock(text="Turn it off.")])
    blocks = [TextBlock(text="One"), ThinkingBlock(content="hm"), TextBlock(text="two"), cited]
    (message,) = to_messages([ChatMessage(role="user", blocks=blocks)])
    assert message == {"role": "user", "content": "One\ntwo\nManual (page 3)\nTurn it off."}


def test_calls_and_results():
    call = ToolCallBlock(tool_call_id="c1", tool_name="double", tool_kwargs={"number": 4})
    told = to_messages(
        [
            ChatMessage(role="assistant", blocks=[call]),
            ChatMessage(role="tool", content="8", additional_kwargs={"tool_call_id": "c1", "other": 1}),
        ]
    )
    assert told == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "name": "double", "arguments": {"number": 4}}],
        },
        {"role": "tool", "content": "8", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "empty"),
        ([ChatMessage(role="user", blocks=[ImageBlock(image=b"iVBORw0KGgo=", image_mimetype="image/png")])], "'image'"),
        ([ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="f", tool_kwargs="{cut")])], "no JSON"),
    ],
)
def test_what_cannot_be_read_is_named(messages, said):
    with pytest.raises(PromptError, match=said):
        as_messages(to_messages(messages))


def test_system_prompt_is_added_where_it_is_missing():
    asked = [ChatMessage(role="user", content="x")]
    once = to_messages(asked, system_prompt="Be kind.")
    assert once == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "x"}]
    again = [ChatMessage(role="system", content="Be kind."), *asked]
    assert to_messages(again, system_prompt="Be kind.") == once
