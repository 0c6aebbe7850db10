"""How a model writes a tool call: our own form, or the one that its chat template shows."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta
from transformers import PreTrainedTokenizerBase

from ig_plugins.chat.rendering import shared_start
from ig_plugins.chat.special import hides
from ig_plugins.chat.tools import CALL_END, CALL_START


@dataclass(frozen=True)
class ToolSyntax:
    """The written form of one call: what comes before the name, between name and arguments, and after.

    Attributes:
        marker: What a call starts with in decoded text; streaming holds back from there. Empty where that cannot be
            seen in the text: then the whole answer is held back.
        start: What a call starts with, special tokens included.
        end: What a complete call ends with.
        before_name: From the start of the answer to the name; empty where a call cannot be forced.
        after_name: From the name to the arguments.
        arguments: The key of the arguments in the JSON object.
        native: The tokenizer's chat template writes this form.
        templated: The tokenizer's response template reads it; else it is JSON between ``start`` and ``end``.
        at_prompt: A forced call follows the generation prompt; else it starts where a plain answer's text would.
    """

    marker: str
    start: str
    end: str
    before_name: str
    after_name: str
    arguments: str = "arguments"
    native: bool = False
    templated: bool = False
    at_prompt: bool = False

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


def prompted_syntax(tokenizer: PreTrainedTokenizerBase) -> ToolSyntax:
    """Our own form; its marker cannot be seen where the vocabulary has it as a special token."""
    return PROMPTED if _visible(tokenizer, CALL_START) else replace(PROMPTED, marker="")


_PROBES = ("ig_probe", "zz_other")


@dataclass(frozen=True)
class _Written:
    """An assistant turn with one call, without the turn's own start; ``end`` is what ends a plain turn too."""

    text: str
    end: str
    at_prompt: bool


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
    if not template_reads(tokenizer.get_chat_template(tools=[_tool("x")]), "tools"):
        return None
    try:
        turns = [_written(tokenizer, name, {"ig_key": "ig_value"}) for name in _PROBES]
        turns += [_written(tokenizer, _PROBES[0], arguments) for arguments in ({"zz_key": "zz"}, {})]
    except (jinja2.TemplateError, ValueError, TypeError, KeyError):
        turns = []
    probed = _probed(turns)
    fields = (getattr(tokenizer, "response_template", None) or {}).get("fields", {})
    if "tool_calls" in fields:
        start = fields["tool_calls"].get("open")
        start = start if isinstance(start, str) else ""
        base = probed or ToolSyntax(marker="", start="", end="", before_name="", after_name="")
        return replace(base, marker=_visible(tokenizer, start), start=start, native=True, templated=True)
    return _json_form(tokenizer, probed, turns[0]) if probed else None


def _probed(turns: list[_Written]) -> ToolSyntax | None:
    """The parts that renderings of different calls share."""
    if len(turns) < 3 or len({turn.at_prompt for turn in turns}) > 1:
        return None
    first, second, *others = (turn.text for turn in turns)
    before_name = first[: shared_start(first, second)]
    if not first.startswith(before_name + _PROBES[0]) or not before_name.strip():
        return None
    rest = [text.removeprefix(before_name + _PROBES[0]) for text in (first, *others)]
    after_name = rest[0][: shared_start(*rest)].rstrip(" \n{<")
    return ToolSyntax(
        marker="", start="", end="", before_name=before_name, after_name=after_name, at_prompt=turns[0].at_prompt
    )


def _json_form(tokenizer: PreTrainedTokenizerBase, probed: ToolSyntax, turn: _Written) -> ToolSyntax | None:
    """The probed form, if it is one JSON object between two markers, which the strict parser reads."""
    before, brace, key = probed.before_name.partition("{")
    written = turn.text.removeprefix(probed.before_name + _PROBES[0] + probed.after_name).lstrip()
    start, end = before.split()[-1:], written.rpartition("}")[2].removesuffix(turn.end).strip()
    argument_key = next((key for key in ("arguments", "parameters") if f'"{key}"' in probed.after_name), None)
    arguments = '{"ig_key": "ig_value"}'
    if not (brace and start and end and turn.end and argument_key) or start[0].endswith("["):
        return None
    if not key.strip().startswith('"name"') or not written.startswith(arguments):
        return None
    return replace(
        probed, marker=_visible(tokenizer, start[0]), start=start[0], end=end, arguments=argument_key, native=True
    )


def _written(tokenizer: PreTrainedTokenizerBase, name: str, arguments: dict[str, Any]) -> _Written:
    """Let the template write a call; where an answer starts and ends is seen from two plain ones."""
    call = {"type": "function", "id": "igprobe00", "function": {"name": name, "arguments": arguments}}
    tools = [_tool(probe) for probe in _PROBES]
    user = {"role": "user", "content": "x"}

    def render(*turns: dict[str, Any], prompt: bool = False) -> str:
        return str(
            tokenizer.apply_chat_template([user, *turns], tools=tools, tokenize=False, add_generation_prompt=prompt)
        )

    plain = [render({"role": "assistant", "content": word}) for word in ("alpha", "zulu")]
    called = render({"role": "assistant", "content": "", "tool_calls": [call]})
    ending = plain[0][len(plain[0]) - shared_start(*(text[::-1] for text in plain)) :]
    ending = ending if called.endswith(ending) else ""
    head = plain[0][: shared_start(*plain)]
    if called.startswith(head):
        return _Written(called[len(head) :].lstrip(), ending, at_prompt=False)
    prompt = render(prompt=True)
    if called.startswith(prompt):
        return _Written(called[len(prompt) :], ending, at_prompt=True)
    raise ValueError("the chat template starts a turn with calls in another way than a plain one")


def _visible(tokenizer: PreTrainedTokenizerBase, start: str) -> str:
    return "" if hides(tokenizer, start) else start


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
