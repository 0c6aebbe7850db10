"""How a model writes a tool call: our own form, or the one that its chat template shows."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta
from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.rendering import shared_start
from ig_plugins.chat.tools import CALL_END, CALL_START


@dataclass(frozen=True)
class ToolSyntax:
    """The written form of one call: what comes before the name, between name and arguments, and after.

    Attributes:
        marker: What a call starts with in decoded text; streaming holds back from there. Empty where that is a
            special token, which decoding drops: then the whole answer is held back.
        start: What a call starts with, special tokens included.
        end: What a complete call ends with.
        before_name: From the start of the answer to the name.
        after_name: From the name to the arguments.
        arguments: The key of the arguments in the JSON object; None where the form is not JSON, which only the
            tokenizer's own response template can read.
        native: The tokenizer's chat template writes this form.
    """

    marker: str
    start: str
    end: str
    before_name: str
    after_name: str
    arguments: str | None = "arguments"
    native: bool = False

    def opening(self, name: str | None) -> str:
        """The start of an answer that can only go on as a call: of ``name``, or of any tool for None."""
        return self.before_name + (f"{name}{self.after_name}" if name else "")


# The opening stops short of the blank before the arguments: tokenizers join it with what follows.
PROMPTED = ToolSyntax(
    marker=CALL_START,
    start=CALL_START,
    end=CALL_END,
    before_name=CALL_START + '{"name": "',
    after_name='", "arguments":',
)

_PROBES = ("ig_probe", "zz_other")


def template_reads(template: str, variable: str) -> bool:
    """Whether a chat template looks at a variable, such as ``tools``; one that does not ignores it silently."""
    return variable in _variables(template)


def native_syntax(tokenizer: PreTrainedTokenizerBase) -> ToolSyntax | None:
    """Learn from a tokenizer's chat template how its model writes tool calls.

    The template renders a few invented calls; what they share is the form, what differs is name and arguments. So
    no table of model families is needed.

    Args:
        tokenizer: One with a chat template.

    Returns:
        The form, or None where the template knows no tools or its form cannot be read back with certainty: those
        models are told about tools in words.
    """
    template = tokenizer.get_chat_template(tools=[_tool("x")])
    if not template_reads(template, "tools"):
        return None
    try:
        first, second = (_written(tokenizer, name, {"ig_key": "ig_value"}) for name in _PROBES)
        others = [_written(tokenizer, _PROBES[0], arguments) for arguments in ({"zz_key": "zz"}, {})]
    except (jinja2.TemplateError, ValueError, TypeError, KeyError):
        return None
    before_name = first[: shared_start(first, second)]
    rest = [text.removeprefix(before_name + _PROBES[0]) for text in (first, *others)]
    if first == rest[0] or not first.startswith(before_name + _PROBES[0]):
        return None
    after_name = rest[0][: shared_start(*rest)].rstrip(" \n{<")
    end = rest[0].rpartition("}")[2].strip()
    return _assembled(tokenizer, before_name, after_name, end, rest[0])


def _assembled(
    tokenizer: PreTrainedTokenizerBase, before_name: str, after_name: str, end: str, rest: str
) -> ToolSyntax | None:
    """Put the probed parts together, if they are of a form that the strict parser or a response template reads."""
    start, brace, key = before_name.lstrip().partition("{")
    start = start.rstrip()
    is_json = bool(brace and start and end) and key.strip().startswith('"name"') and not start.endswith("[")
    argument_key = next((key for key in ("arguments", "parameters") if f'"{key}"' in after_name), None)
    written = rest[len(after_name) :].lstrip()
    is_json = is_json and argument_key is not None and written.startswith('{"ig_key": "ig_value"}')
    if not is_json and getattr(tokenizer, "response_template", None) is None:
        return None
    words = start.split() or [before_name.strip()]
    return ToolSyntax(
        marker=_visible(tokenizer, words[0]),
        start=words[0],
        end=end,
        before_name=before_name,
        after_name=after_name,
        arguments=argument_key if is_json else None,
        native=True,
    )


def _written(tokenizer: PreTrainedTokenizerBase, name: str, arguments: dict[str, Any]) -> str:
    """What the template writes for an assistant turn with one call, without the turn's own start and end."""
    call = {"type": "function", "id": "igprobe00", "function": {"name": name, "arguments": arguments}}
    tools = [_tool(probe) for probe in _PROBES]
    user = {"role": "user", "content": "x"}

    def render(*turns: dict[str, Any]) -> str:
        return str(tokenizer.apply_chat_template([user, *turns], tools=tools, tokenize=False))

    # A pair of plain answers shows where an assistant turn's text starts and how the turn ends.
    plain = [render({"role": "assistant", "content": word}) for word in ("alpha", "zulu")]
    head = plain[0][: shared_start(*plain)]
    ending = shared_start(*(text[::-1] for text in plain))
    called = render({"role": "assistant", "content": "", "tool_calls": [call]})
    if not called.startswith(head) or called[-ending:] != plain[0][-ending:] or not ending:
        raise ValueError("the chat template starts or ends a turn with calls in another way than a plain one")
    return called[len(head) : len(called) - ending].lstrip()


def _visible(tokenizer: PreTrainedTokenizerBase, start: str) -> str:
    hidden = any(token and token in start for token in tokenizer.all_special_tokens)
    return "" if hidden else start


def _tool(name: str) -> dict[str, Any]:
    properties = {key: {"type": "string", "description": "x"} for key in ("ig_key", "zz_key")}
    parameters = {"type": "object", "properties": properties, "required": []}
    return {"type": "function", "function": {"name": name, "description": "x", "parameters": parameters}}


@lru_cache(maxsize=64)
def _variables(template: str) -> frozenset[str]:
    # transformers' templates know the loop controls and a generation block on top of plain jinja
    source = template.replace("{%- generation", "{%- if true").replace("{% generation", "{% if true")
    source = source.replace("endgeneration", "endif")
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(source)))
    except jinja2.TemplateError:
        return frozenset()
