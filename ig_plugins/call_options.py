"""What a call may set, declared once: names, types and words.

Every door is made from `CallOptions`, or compared with it by ``tests/ig_plugins/guard/test_doors.py``: the keywords of
`InferenceGuard`'s calls, the adapters' fields, the HTTP request, the command line, and the table in docs/options.md,
which ``python -m ig_plugins.guard.options_table`` writes. Which values are allowed stands in `Options` and
`SearchConfig`, where they are checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_type_hints

from typing_extensions import Doc, TypedDict

from critic_models import safety

OnBlock = Literal["refuse", "raise", "empty"]
Selection = Literal["reward", "hedged"]
Adaptive = Literal["off", "on", "auto"]
LastAssistant = Literal["turn", "prefill"]
Door = Literal["fields", "http", "cli"]


class CallOptions(TypedDict, total=False):
    """A call's keywords. None leaves a setting as it is, except for ``seed`` and ``timeout``."""

    budget: Annotated[
        safety.Budgets | None,
        Doc(
            "How much cost an answer may spend: a `SafetyBudget`, or a bare limit that keeps the cost model's "
            "accounting; a list with one for each cost model."
        ),
    ]
    candidates: Annotated[int | None, Doc("N: lanes sampled per block and prompt.")]
    beams: Annotated[int | None, Doc("K: lanes kept after a block. Behind llama.cpp 2 (remote.md).")]
    block_tokens: Annotated[int | None, Doc("d: tokens per block.")]
    max_tokens: Annotated[int | None, Doc("D: the longest answer, in tokens.")]
    max_new_tokens: Annotated[int | None, Doc("`max_tokens`, by the name that transformers has for it.")]
    tries: Annotated[
        int | None, Doc("M: how often a block is sampled before giving up when no candidate is judged safe.")
    ]
    temperature: Annotated[float | None, Doc("Softmax temperature; 0 is greedy.")]
    top_k: Annotated[int | None, Doc("Draw among the k most likely tokens; 0 for all.")]
    top_p: Annotated[float | None, Doc("Draw inside the nucleus of this mass; 1.0 for all.")]
    min_p: Annotated[
        float | None, Doc("Draw among tokens at least this share as likely as the most likely one; 0 for all.")
    ]
    repetition_penalty: Annotated[float | None, Doc("As in transformers; 1.0 for none.")]
    retry_penalty: Annotated[
        float | None, Doc("Taken off the logit of tokens that failed candidates used at the same block position.")
    ]
    stratified: Annotated[
        bool | None,
        Doc(
            "The lanes of a beam draw from even shares of the distribution instead of independently, so that fewer of "
            "them repeat one another; each is still an exact sample of the policy."
        ),
    ]
    selection: Annotated[
        Selection | None,
        Doc(
            "How the answer is picked among verified ones: by `reward`, or without a reward model drawn as often as "
            "the policy says it; `hedged` does so in the half of them that leaves most of the budget unspent, as the "
            "best of many that just pass is where a cost model errs most."
        ),
    ]
    adaptive: Annotated[
        Adaptive | None,
        Doc(
            "`off` always searches in full; `on` runs few lanes while the critic is sure of a safe end and the budget "
            "is comfortable, and takes the block back and searches in full where it is not; `auto` as the guard's "
            "preset says, and off without one."
        ),
    ]
    narrow_candidates: Annotated[
        int | None, Doc("Lanes of a block that an adaptive search tries first; the best one of them goes on.")
    ]
    schedule: Annotated[
        Sequence[int] | None,
        Doc(
            "Candidates of the first block, the second, and so on; the last entry counts for all that follow. Empty "
            "for `candidates` throughout."
        ),
    ]
    max_lag: Annotated[
        int | None,
        Doc(
            "Beams and finished answers must share their path up to this many blocks ago, so that a stream is never "
            "further behind decoding. 0 streams soonest, and the search loses most (performance.md)."
        ),
    ]
    seed: Annotated[
        int | None, Doc("With it the same call gives the same answer; None draws one, and the result says which.")
    ]
    stop: Annotated[
        str | Sequence[str] | None,
        Doc(
            "Strings that end the answer and are not part of it. Where one holds a special token of the model's, that "
            "token ends it."
        ),
    ]
    stop_token_ids: Annotated[Sequence[int] | None, Doc("Tokens that end the answer, besides the model's own.")]
    timeout: Annotated[
        float | None,
        Doc(
            "Seconds that an answer may take, waiting included; None for no limit. A stream's run from the first "
            "`next`, with which decoding begins."
        ),
    ]
    judge_timeout: Annotated[float | None, Doc("Seconds that one call of a judge of texts may take.")]
    on_block: Annotated[
        OnBlock | None, Doc("What a blocked request gives: the refusal, an exception, or an empty text.")
    ]
    refusal: Annotated[str | None, Doc("The words of the refusal.")]
    raw_prompt: Annotated[bool | None, Doc("A text prompt is sent to the policy as it is, without a prompt format.")]
    last_assistant: Annotated[
        LastAssistant | None,
        Doc(
            "What a conversation asks for that ends with an assistant message: a `turn` of its own behind it, as "
            "graphs of several agents expect, or its continuation, the message being a `prefill` that spends budget. "
            "The report says which it was."
        ),
    ]
    chat_template_kwargs: Annotated[
        Mapping[str, Any] | None,
        Doc(
            "Variables of the model's chat template, such as `enable_thinking`; one that it does not read is an error."
        ),
    ]
    tools: Annotated[Sequence[Any] | None, Doc("Functions that the model may call, in OpenAI's format.")]
    tool_choice: Annotated[
        str | Mapping[str, Any] | None, Doc("`auto`, `none`, `any` or a function's name; or as OpenAI writes it.")
    ]
    tool_threshold: Annotated[
        float | None,
        Doc(
            "With `tool_choice` `auto`, at a user's turn: a tool is called if the question makes its call likelier, by "
            "so many nats or more, than a question that says nothing does. For small models, which never call of "
            "themselves; a very large one leaves it to the model's draws, as it is where nothing is said "
            "(structured-output.md)."
        ),
    ]
    json_schema: Annotated[
        Mapping[str, Any] | str | None,
        Doc(
            "The answer is JSON that fits this schema, a mapping or JSON text. Needs `inferenceguard[grammar]`, as do "
            "`regex`, `choices` and `grammar`; a call may have one of the four (structured-output.md)."
        ),
    ]
    regex: Annotated[str | None, Doc("The answer matches this regular expression, in the syntax of Rust's `regex`.")]
    choices: Annotated[Sequence[str] | None, Doc("The answer is one of these texts.")]
    grammar: Annotated[str | None, Doc("The answer is in the language of this grammar, in llguidance's form of Lark.")]
    logits_processors: Annotated[Sequence[Any] | None, Doc("transformers' processors, applied while sampling.")]
    trace: Annotated[
        bool | None,
        Doc(
            "The result says how it was found, block by block (`GuardResult.trace`), with the text of lanes that did "
            "not pass: for operators (trace.md)."
        ),
    ]


# What a door does not offer on purpose, and why. Whatever is not named here, every door has.
WITHHELD: dict[Door, dict[str, str]] = {
    "fields": {
        "max_new_tokens": "the field `max_tokens` takes this name as well",
        "raw_prompt": "belongs to an input's kind: LangChain's text class has it, LlamaIndex says `formatted`",
        "tools": "tools are bound to a call (`bind_tools`), and are no setting of a model",
        "tool_choice": "goes with `tools`",
        "logits_processors": "Python objects, and fields must survive JSON; give them with a call, or `from_guard`",
        "trace": "frameworks store what they are given, and a trace holds text that did not pass; ask the guard itself",
    },
    "http": {
        "max_new_tokens": "OpenAI's name is `max_tokens`",
        "judge_timeout": "protects the service from a judge that hangs: the operator's",
        "on_block": "clients are told of a block by `finish_reason` and `refusal`",
        "refusal": "the service's words are the operator's",
        "raw_prompt": "a chat's messages are rendered by the prompt format, which keeps turns apart",
        "logits_processors": "Python objects",
        "trace": "holds text that did not pass: the operator's, who may offer `/ui` (`serve --ui`)",
    },
    "cli": {
        "max_new_tokens": "say `--max-tokens`",
        "chat_template_kwargs": "belongs to a conversation; commands take one text",
        "last_assistant": "belongs to a conversation; commands take one text",
        "tools": "no command runs tools",
        "tool_choice": "goes with `tools`",
        "tool_threshold": "goes with `tools`",
        "logits_processors": "Python objects",
        "trace": "`inferenceguard trace` makes one",
    },
}


def offered(door: Door) -> dict[str, tuple[Any, str]]:
    """A door's options: name to type and words."""
    # On the command line a budget is a number: a help text need not wait for pydantic, of which the class is made.
    plain = {"safety": SimpleNamespace(Budgets=float)} if door == "cli" else None
    hints = get_type_hints(CallOptions, localns=plain, include_extras=True)
    found = {name: get_args(hint) for name, hint in hints.items() if name not in WITHHELD[door]}
    return {name: (kind, doc.documentation) for name, (kind, doc) in found.items()}
