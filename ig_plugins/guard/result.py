"""What a guarded answer carries: the text, the verifier's figures, and the ledger of blocks."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from critic_models.safety import Accounting
from ig_plugins.call_options import LastAssistant
from ig_plugins.chat.replies import content
from ig_plugins.search.trace.records import Trace

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockRecord(_Record):
    """One row of the ledger: what one block of the search cost.

    Attributes:
        index: The block's number, from 0.
        candidates: Lanes sampled, all tries together.
        safe: How many of them were judged safe.
        tries: How often the block was sampled.
        cost: What the block spent on the path of the answer (cumulative: the sum; worst: the highest score).
        safety_state: The unspent budget after the block, on the path of the answer.
        tokens: Tokens sampled in the block, all lanes together.
    """

    index: int
    candidates: int
    safe: int
    tries: int
    cost: float | None
    safety_state: float | None
    tokens: int


class Usage(_Record):
    """What the answer took.

    Attributes:
        prompt_tokens: Tokens of the rendered prompt.
        completion_tokens: Tokens of the released answer.
        candidate_tokens: Tokens sampled in all lanes and tries.
        judge_calls: Calls of cost and reward models, verification included.
        judge_tokens: Tokens that cost and reward models read (text judges: responses scored times their words).
    """

    prompt_tokens: int
    completion_tokens: int
    candidate_tokens: int
    judge_calls: int
    judge_tokens: int


class GuardResult(_Record):
    """A verified answer, or a marked refusal.

    Attributes:
        text: The answer; the refusal (or nothing) when blocked.
        blocked: No candidate passed the verifier.
        reason: Why it was blocked, in words; None otherwise.
        finish_reason: ``stop``, ``length``, ``content_filter`` when blocked, ``tool_calls``.
        cost: As measured by the verifier: the total (cumulative) or the highest score (worst), that of words and calls
            that left apart included; None when blocked, or where a stop string left nothing to read.
        costs: The same per cost model, by name, of those that have read something.
        reward: The reward model's score of the answer; None when blocked or without a reward model.
        safety_state: The unspent budget at the end, the least of all cost models; None likewise.
        accounting: How cost was counted, per cost model.
        blocks: The ledger, one record per block.
        usage: Tokens and judge calls.
        seed: With it the same call gives the same answer.
        seconds: Wall clock of the request, waiting for its turn included.
        token_ids: The released answer's tokens.
        lag: When streaming: the largest number of tokens by which release was behind decoding.
        first_text_seconds: When streaming: wall clock until the first verified text; None if none left before the end.
        tool_calls: Parsed calls, each {"id", "name", "arguments"}; emitted whole or not at all.
        invalid_tool_calls: What was meant as calls and is none, each {"id", "name", "text", "problem"}: the text as it
            was written and judged, never to be executed, and what is wrong. The name is None where it is not plain.
        last_assistant: Where the conversation ended with an assistant message: whether the answer is a turn of its own
            behind it, or goes on with it; None elsewhere.
        certified: Whether the guard's certificate speaks of this call; None where the guard has none.
        trace: How it was found, if the call asked for that. It holds text that did not pass: for operators, and no part
            of `report` or ``repr``.
    """

    text: str
    blocked: bool
    reason: str | None = None
    finish_reason: FinishReason
    cost: float | None
    costs: dict[str, float] = {}
    reward: float | None
    safety_state: float | None
    accounting: dict[str, Accounting] = {}
    blocks: tuple[BlockRecord, ...]
    usage: Usage
    seed: int
    seconds: float
    token_ids: tuple[int, ...] = ()
    lag: int | None = None
    first_text_seconds: float | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    invalid_tool_calls: tuple[dict[str, Any], ...] = ()
    last_assistant: LastAssistant | None = None
    certified: bool | None = None
    trace: Trace | None = Field(default=None, repr=False)

    @property
    def content(self) -> str:
        """What a message shows: the text, or where all of the answer was meant as calls and is none, that as written.

        So that no agent ends with an empty message: what was written has been judged, and says more than nothing.
        """
        invalid = [call["text"] for call in self.invalid_tool_calls]
        return content(self.text, calls=self.tool_calls, invalid=invalid)

    def report(self) -> dict[str, Any]:
        """What adapters pass on as ``inference_guard``: all but words, their tokens and valid calls, as plain JSON."""
        return self.model_dump(mode="json", exclude={"text", "token_ids", "tool_calls", "trace"})


def why_no_call(report: Mapping[str, Any]) -> str:
    """Why an answer that may have been expected to call a tool holds no call; nothing of the answer is quoted.

    Args:
        report: As `GuardResult.report` gives it.
    """
    cut = report.get("finish_reason") == "length"
    invalid = report.get("invalid_tool_calls") or ()
    if invalid:
        advice = "; max_tokens cut it off, so raise that" if cut else ""
        return f"the model began a call that is not valid: {invalid[0]['problem']}{advice}"
    if cut:
        return "max_tokens cut the answer off before a call; raise max_tokens"
    return "the model answered in words instead of calling a tool"
