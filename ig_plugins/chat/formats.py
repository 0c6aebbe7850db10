"""Prompt formats: from a conversation to the tokens that the policy reads.

Every format is a Jinja chat template, the tokenizer's own or one of ours, and transformers applies it with
``sanitize_control_tokens``: special tokens come from the template alone, whatever stands in the messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jinja2
from transformers import PreTrainedTokenizerBase

from critic_models.safe_rlhf import ASSISTANT, BEGIN, USER
from ig_plugins.call_options import LastAssistant
from ig_plugins.chat.messages import Message, as_messages, defuse_turns, judge_prompt
from ig_plugins.chat.rendering import (
    alternating,
    as_blocks,
    broken,
    check_keys,
    folded,
    in_words,
    indented,
    inside,
    lone_results_in_words,
    native_turn,
    needs_blocks,
    shared_start,
    with_head,
    without_system,
)
from ig_plugins.chat.syntax import ToolSyntax, native_syntax, prompted_syntax
from ig_plugins.chat.tools import Tool, ToolChoice, as_tools, choose
from ig_plugins.chat.variables import check_variables
from ig_plugins.chat.wording import BEHIND_RESULT, instruction
from ig_plugins.errors import ConfigurationError, PromptError

_NOTHING: dict[str, Any] = {"role": "user", "content": "x"}
FORMATS = ("auto", "chat_template", "beaver", "plain")

# Safe-RLHF's text format (PKU-Alignment/safe-rlhf): a finished answer ends with EOS, then the next USER follows.
BEAVER = (
    "{{ bos_token if add_bos }}"
    + BEGIN
    + "{% for m in messages %}{% if m.role == 'user' %}"
    + USER
    + "{{ m.content }}"
    + ASSISTANT
    + "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# For base models: a lone text as it is, a longer conversation with labels.
PLAIN = (
    "{{ bos_token if add_bos }}{% for m in messages %}"
    "{% if labels %}{{ m.role.capitalize() }}: {{ m.content }}{{ '\n\n' if not loop.last }}"
    "{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{{ '\n\nAssistant:' if labels and add_generation_prompt }}"
)


@dataclass(frozen=True)
class EncodedPrompt:
    """A conversation, ready to be answered.

    Attributes:
        prompt_ids: The conversation up to where the assistant speaks.
        prefill_ids: Tokens that the answer is forced to start with: the last assistant message, where the caller
            gave one, then ``opening``. They are part of the answer and spend budget.
        judge_prompt: What text judges are told the answer replies to.
        written: How many of these the caller wrote; the others are ``opening``.
        opening: The start of a forced tool call; empty otherwise.
        tools: The tools as checked.
        tool_choice: "auto", "none", "any" or a tool's name.
        syntax: How this model writes calls; None where it may not call.
        last_assistant: What a last assistant message was taken for; None where there was none.
        called: Names of the tools that were called since the user last spoke.
    """

    prompt_ids: list[int]
    prefill_ids: list[int]
    judge_prompt: str
    written: int = 0
    opening: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str = "none"
    syntax: ToolSyntax | None = None
    last_assistant: LastAssistant | None = None
    called: tuple[str, ...] = ()


class PromptFormat(Protocol):
    """How conversations become tokens."""

    @property
    def name(self) -> str:
        """As in ``FORMATS``."""

    def encode(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        tool_choice: ToolChoice = "auto",
        last_assistant: LastAssistant = "turn",
        variables: Mapping[str, Any] | None = None,
        masked: bool = False,
    ) -> EncodedPrompt:
        """Encode a conversation.

        Args:
            messages: The conversation.
            tools: What the model may call.
            tool_choice: See `choose`.
            last_assistant: Whether the answer to a conversation that ends with an assistant message is a turn of its
                own, or goes on with that message.
            variables: Further variables of the chat template.
            masked: Tokens that leave a forced call's schema will be masked, so that words need not teach its form.

        Raises:
            PromptError: For a conversation that cannot be answered, saying what is wrong with it.
            ConfigurationError: For variables that the template does not read.
        """

    def count(self, messages: Sequence[Message], *, tools: Sequence[Tool] | None = None) -> int:
        """Tokens of a conversation or any piece of one, as near to what `encode` makes of it as can be."""


@dataclass(frozen=True)
class TemplateFormat:
    """A prompt format given by a Jinja chat template.

    Attributes:
        name: As in ``FORMATS``.
        tokenizer: The policy's tokenizer.
        template: A template of ours; None for the tokenizer's own.
        native: The tool calls of the tokenizer's template; None where tools are explained in words.
        add_bos: For our own templates: the tokenizer puts BOS before a text.
        blocks: The template reads contents as lists of typed blocks only, as those of vision models do.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    template: str | None = None
    native: ToolSyntax | None = None
    add_bos: bool = False
    blocks: bool = False

    def encode(
        self,
        messages: str | Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        tool_choice: ToolChoice = "auto",
        last_assistant: LastAssistant = "turn",
        variables: Mapping[str, Any] | None = None,
        masked: bool = False,
    ) -> EncodedPrompt:
        """See ``PromptFormat.encode``."""
        turns = as_messages(messages)
        if turns[-1].get("tool_calls"):
            raise PromptError("the last message is an assistant turn with tool_calls; add the tools' results after it")
        return self._encoded(turns, as_tools(tools), tool_choice, last_assistant, variables or {}, masked)

    def count(self, messages: Sequence[Message], *, tools: Sequence[Tool] | None = None) -> int:
        """See ``PromptFormat.count``."""
        turns, offered = as_messages(messages, partial=True), as_tools(tools)
        if not turns and not offered:
            return 0
        try:
            encoded = self._encoded(turns or [_NOTHING], offered, "auto", "turn", {})
            return len(encoded.prompt_ids)
        except PromptError:  # a piece that the template cannot show alone
            word = len(self._encoded([_NOTHING], offered, "auto", "turn", {}).prompt_ids)
            texts = [str(in_words(turn)["content"]) for turn in turns]
            marks = word - len(inside(self.tokenizer, _NOTHING["content"], trusted=False))
            return sum(marks + len(inside(self.tokenizer, text, trusted=False)) for text in texts)

    def _encoded(
        self,
        turns: list[dict[str, Any]],
        offered: tuple[dict[str, Any], ...],
        tool_choice: ToolChoice,
        last_assistant: LastAssistant,
        variables: Mapping[str, Any],
        masked: bool = False,
    ) -> EncodedPrompt:
        check_variables(variables, self.tokenizer, ours=self.template is not None)
        choice = choose(tool_choice, offered)
        syntax = None if choice == "none" else self._syntax(forced=choice != "auto")
        opening = syntax.opening(None if choice == "any" else choice) if syntax and choice != "auto" else ""
        begun = turns[-1]["role"] == "assistant"
        prefill, history = "", turns
        if begun and last_assistant == "prefill":
            prefill, history = self._prefill(turns[-1]), turns[:-1]
        shown = offered if choice != "none" else ()
        native = self.native is not None and (syntax is None or syntax.native)
        rendered = self._rendered(history, shown, choice, native=native, masked=masked)
        at_text = bool(prefill or (opening and syntax and not syntax.at_prompt))
        prompt_ids, prefill_ids = self._split(
            rendered, prefill, shown if native else (), at_text=at_text, variables=variables
        )
        return EncodedPrompt(
            prompt_ids=prompt_ids,
            prefill_ids=prefill_ids + (inside(self.tokenizer, opening, trusted=True) if opening else []),
            judge_prompt=judge_prompt(history),
            written=len(prefill_ids),
            opening=opening,
            tools=offered,
            tool_choice=choice,
            syntax=syntax,
            last_assistant=last_assistant if begun else None,
            called=_called(history),
        )

    def _syntax(self, *, forced: bool) -> ToolSyntax:
        """The template's own syntax, unless it cannot do what is asked."""
        native = self.native
        return native if native and (native.before_name or not forced) else prompted_syntax(self.tokenizer)

    def _prefill(self, last: Message) -> str:
        text = str(last["content"])
        return defuse_turns(text) if self.name == "beaver" else text

    def _rendered(
        self, history: list[dict[str, Any]], tools: Sequence[Tool], choice: str, *, native: bool, masked: bool
    ) -> list[dict[str, Any]]:
        """The history in the form that the template reads."""
        if native:
            return [native_turn(message) for message in lone_results_in_words(history)]
        turns = [in_words(message) for message in history]
        answered = history[-1]["role"] == "tool"
        if answered and choice in ("auto", "none"):
            turns[-1]["content"] += f"\n\n{BEHIND_RESULT}"
        if tools:
            turns = with_head(turns, instruction(tools, choice, masked=masked, answered=answered))
        if self.name == "plain" and len(turns) > 1:
            return [indented(turn) for turn in turns]
        if self.name != "beaver":
            return turns
        turns = alternating(without_system(turns))
        if turns[-1]["role"] == "assistant":  # only behind a user's turn does the assistant's marker stand
            turns.append({"role": "user", "content": ""})
        return [{**turn, "content": defuse_turns(turn["content"])} for turn in turns]

    def _split(
        self,
        turns: list[dict[str, Any]],
        prefill: str,
        tools: Sequence[Tool],
        *,
        at_text: bool,
        variables: Mapping[str, Any],
    ) -> tuple[list[int], list[int]]:
        """The tokens before the answer, and those of the prefill."""
        extra = {"labels": len(turns) > 1} if self.name == "plain" else dict(variables)
        if self.template or not at_text:
            ahead = self._apply(turns, tools, add_generation_prompt=True, **extra)
            return ahead, inside(self.tokenizer, prefill, trusted=False) if prefill else []
        # Where the answer's text starts is where two different ones part: the generation prompt may write more,
        # such as the start of a thinking block.
        text = prefill or "A"
        full, other = (
            self._apply([*turns, {"role": "assistant", "content": word}], tools, continue_final_message=True, **extra)
            for word in (text, "B" if text.lstrip()[0] == "A" else "A")
        )
        cut = shared_start(full, other)
        return full[:cut], full[cut:] if prefill else []

    def _apply(self, turns: list[dict[str, Any]], tools: Sequence[Tool], **options: Any) -> list[int]:
        check_keys(self.tokenizer, turns)
        try:
            try:
                return self._tokens(turns, tools, options)
            except jinja2.TemplateError:  # such as: this template knows no system role
                return self._tokens(folded(turns), tools, options)
        except jinja2.TemplateError as error:
            raise PromptError(
                f"the model's chat template refuses this conversation: {error}; "
                "let user and assistant turns alternate, or choose prompt_format='plain'"
            ) from error

    def _tokens(self, turns: list[dict[str, Any]], tools: Sequence[Tool], options: Mapping[str, Any]) -> list[int]:
        arguments = {"tools": list(tools) or None, "chat_template": self.template, **options}
        if self.template:
            arguments |= {"add_bos": self.add_bos}

        def apply(form: list[dict[str, Any]]) -> list[int]:
            form = [as_blocks(turn) for turn in form] if self.blocks else form
            return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                form, tokenize=True, return_dict=False, sanitize_control_tokens=True, **arguments
            )

        try:
            try:
                return list(apply(turns))
            except ValueError as error:
                if "sanitize" not in str(error):
                    raise
                # This vocabulary spells a control token even from plain text.
                return list(apply([broken(turn, self.tokenizer) for turn in turns]))
        except ValueError as error:
            # Not chained: transformers quotes the whole conversation in some of these.
            raise PromptError(
                f"the chat template cannot render this conversation ({type(error).__name__}); "
                "look for control tokens in it, or for a prefill that the template rewrites"
            ) from None


def prompt_format(spec: str, tokenizer: PreTrainedTokenizerBase) -> TemplateFormat:
    """The format of a name.

    Args:
        spec: ``beaver``, the Safe-RLHF text format; ``chat_template``, the tokenizer's own; ``plain``, the text
            alone; ``auto``, the tokenizer's own where it has one, else plain.
        tokenizer: The policy's tokenizer.

    Raises:
        ConfigurationError: For another name, or a tokenizer without a chat template.
    """
    has_template = bool(tokenizer.chat_template)
    if spec == "auto":
        spec = "chat_template" if has_template else "plain"
    if spec == "chat_template":
        if not has_template:
            raise ConfigurationError(
                "prompt_format is 'chat_template', but this model's tokenizer has none; choose 'plain' or 'beaver'"
            )
        return TemplateFormat(spec, tokenizer, native=native_syntax(tokenizer), blocks=needs_blocks(tokenizer))
    if spec not in FORMATS:
        raise ConfigurationError(f"prompt_format is {spec!r}; allowed are {', '.join(FORMATS)}")
    ids = tokenizer("a").input_ids
    add_bos = bool(ids) and ids[0] == tokenizer.bos_token_id
    return TemplateFormat(spec, tokenizer, template=BEAVER if spec == "beaver" else PLAIN, add_bos=add_bos)


def _called(history: Sequence[Message]) -> tuple[str, ...]:
    """Tools that were called since the user last spoke."""
    spoke = max((place for place, turn in enumerate(history) if turn["role"] == "user"), default=-1)
    return tuple(call["name"] for turn in history[spoke + 1 :] for call in turn.get("tool_calls") or ())
