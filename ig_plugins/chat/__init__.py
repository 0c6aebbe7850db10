"""Prompt formats and chat templates, tools, and the parsing of tool calls."""

from ig_plugins.chat.formats import FORMATS, EncodedPrompt, PromptFormat, TemplateFormat, prompt_format
from ig_plugins.chat.messages import Message, as_messages, defuse_turns, judge_prompt
from ig_plugins.chat.rendering import argument_words, call_words
from ig_plugins.chat.replies import InvalidCall, ParsedReply, parse_reply, tool_region
from ig_plugins.chat.schema import schema_fault, schema_problem
from ig_plugins.chat.special import special_in, special_tokens, turn_ids
from ig_plugins.chat.syntax import PROMPTED, ToolSyntax, native_syntax
from ig_plugins.chat.tools import Tool, ToolChoice, as_tools, choose

__all__ = [
    "FORMATS",
    "PROMPTED",
    "EncodedPrompt",
    "InvalidCall",
    "Message",
    "ParsedReply",
    "PromptFormat",
    "TemplateFormat",
    "Tool",
    "ToolChoice",
    "ToolSyntax",
    "argument_words",
    "as_messages",
    "as_tools",
    "call_words",
    "choose",
    "defuse_turns",
    "judge_prompt",
    "native_syntax",
    "parse_reply",
    "prompt_format",
    "schema_fault",
    "schema_problem",
    "special_in",
    "special_tokens",
    "tool_region",
    "turn_ids",
]
