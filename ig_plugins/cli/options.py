"""Options that several commands have, with one wording each."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

import typer

from ig_plugins.call_options import offered
from ig_plugins.errors import ConfigurationError

Command = TypeVar("Command", bound=Callable[..., None])

CostModel = Annotated[str | None, typer.Option(help="A preset, checkpoint, module:function or file.py:function.")]
RewardModel = Annotated[str | None, typer.Option(help="As --cost-model.")]
Critic = Annotated[str | None, typer.Option(help="A folder or hub id; the preset's by default.")]
NoCritic = Annotated[bool, typer.Option("--no-critic", help="Search with the cost and reward models alone.")]
Tokenizer = Annotated[
    str | None, typer.Option(help="Of a model behind a server's address: a preset, hub id, folder or GGUF file.")
]
LoadOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE: how weights are loaded, or a server is asked (docs/remote.md); may repeat."),
]
PromptFormat = Annotated[
    str | None,
    typer.Option(
        help="How prompts are written: as the preset says, else the tokenizer's chat template, else the text alone.",
        metavar="auto|chat_template|beaver|plain",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Of the policy, on the hub: a branch, tag or commit.")]
Dtype = Annotated[str | None, typer.Option(help="Of the policy's weights, such as bfloat16.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="The longest answer.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many prompts.")]
Column = Annotated[str | None, typer.Option(help="The column that holds the prompt.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; the best there is by default.")]


def load_options(given: Sequence[str] | None) -> dict[str, Any] | None:
    """What was said with --load-option, or None; values are JSON, or else texts.

    Raises:
        ConfigurationError: One of them is not NAME=VALUE.
    """
    found: dict[str, Any] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise ConfigurationError(f"--load-option is {each!r}; write NAME=VALUE, such as seeds=true")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found or None


def with_parts(*, without: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Gives a command the options that say what its guard is loaded from.

    They come as one keyword argument, ``parts``: keywords of `InferenceGuard.from_pretrained`.

    Args:
        without: Those that the command has no use for.
    """
    offered_here = {name: each for name, each in _PARTS.items() if name not in without}

    def extended(command: Command) -> Command:
        own = [each for each in _parameters(command) if each.name != "parts"]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, (kind, default) in offered_here.items()
        ]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            parts = _parts({name: given.pop(name) for name in offered_here})
            command(**given, parts=parts)

        return _signed(cast("Command", called), [*_named(own), *more, *own[len(_named(own)) :]])

    return extended


def _parts(said: dict[str, Any]) -> dict[str, Any]:
    """What was said of a guard's parts.

    Raises:
        ConfigurationError: A critic and none, or a --load-option that is not NAME=VALUE.
    """
    found = {**said, "load_options": load_options(said["load_option"])}
    del found["load_option"]
    if found.pop("no_critic", False):
        if found["critic"] is not None:
            raise ConfigurationError(
                f"--critic is {found['critic']!r} and --no-critic is there, too; give one of the two"
            )
        found["critic"] = False
    return found


_PARTS: dict[str, tuple[Any, Any]] = {
    "cost_model": (CostModel, None),
    "reward_model": (RewardModel, None),
    "critic": (Critic, None),
    "no_critic": (NoCritic, False),
    "prompt_format": (PromptFormat, None),
    "tokenizer": (Tokenizer, None),
    "load_option": (LoadOption, None),
    "revision": (Revision, None),
    "device": (Device, None),
    "dtype": (Dtype, None),
}


def with_call_options(*, without: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Gives a command an option for each of a call's (``CallOptions``), which come as keyword arguments.

    Args:
        without: Those that the command itself says, or has no use for.
    """

    def extended(command: Command) -> Command:
        known = _named(_parameters(command))
        taken = {each.name for each in known} | set(without)
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, kind, words))
            for name, (kind, words) in offered("cli").items()
            if name not in taken
        ]
        return _signed(command, [*known, *more])

    return extended


def _parameters(command: Command) -> list[inspect.Parameter]:
    return list(inspect.signature(command, eval_str=True).parameters.values())


def _named(parameters: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
    """Those with a name of their own, to be given by it."""
    named = [each for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
    return [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in named]


def _signed(command: Command, parameters: Sequence[inspect.Parameter]) -> Command:
    """The command as typer is to see it."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


_TYPES: dict[str, Any] = {
    "budget": float, "stop": list[str], "stop_token_ids": list[int], "schedule": list[int], "json_schema": str,
    "choices": list[str],
}  # fmt: skip
_NOTES = {
    "budget": "The budget's limit; the preset's by default.",
    "stop": "A string that ends the answer; may repeat.",
    "json_schema": "The answer is JSON that fits this schema, given as JSON.",
    "choices": "A text that the answer may be; repeat it for each.",
}


def _option(name: str, kind: Any, words: str) -> Any:
    """The type of a parameter that typer makes an option of."""
    words = _NOTES.get(name, words)
    inner = _TYPES.get(name) or next(each for each in get_args(kind) if each is not type(None))
    if get_origin(inner) is Literal:
        return Annotated[str | None, typer.Option(help=words, metavar="|".join(get_args(inner)))]
    return Annotated[inner | None, typer.Option(help=words)]
