"""What the middleware stands on: one judge with its limit, and the messages of an agent seen as texts to judge."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.tool import ToolCall

from critic_models.judges import Judge
from ig_plugins.errors import ConfigurationError
from ig_plugins.runtime.judging import JUDGE_SECONDS, ask_judge

Stage = Literal["input", "output", "tool_call", "tool_result"]


@dataclass(frozen=True)
class Verdict:
    """What the judge said about one text; never the text itself."""

    stage: Stage
    judge: str
    score: float
    limit: float

    @property
    def blocked(self) -> bool:
        """Above the limit; a score equal to it is still safe."""
        return self.score > self.limit

    def report(self) -> dict[str, Any]:
        """As `inference_guard` in a message's metadata."""
        reason = f"{self.stage}: {self.judge} scored {self.score:.4g}, the limit is {self.limit:.4g}"
        return {
            "blocked": self.blocked,
            "reason": reason if self.blocked else None,
            "stage": self.stage,
            "judge": self.judge,
            "cost": self.score,
            "limit": self.limit,
        }


class Screen:
    """Asks a judge whether a text may pass.

    Args:
        judge: Scores a text as a response to a prompt; higher is worse.
        limit: The highest score that passes; the judge's own default if None.
    """

    def __init__(self, judge: Judge, limit: float | None, *, judge_timeout: float = JUDGE_SECONDS) -> None:
        if not (isinstance(judge_timeout, int | float) and 0 < judge_timeout < math.inf):
            raise ConfigurationError(f"judge_timeout is {judge_timeout!r}; give a number of seconds above 0")
        self.judge, self.judge_timeout = judge, float(judge_timeout)
        self.limit = judge.default_limit if limit is None else float(limit)
        if not math.isfinite(self.limit):
            raise ConfigurationError(f"limit is {limit}; give a finite number, or None for {judge.default_limit}")

    def look(self, stage: Stage, text: str, *, prompt: str = "") -> Verdict:
        """The verdict on a text.

        Raises:
            JudgeError: The judge failed, took too long or asked itself. The text has not been judged then, and must not
                pass.
        """
        (score,) = ask_judge(self.judge, [prompt], [text], finished=[True], seconds=self.judge_timeout)
        return Verdict(stage, self.judge.name, score, self.limit)


def asked(messages: Sequence[BaseMessage]) -> str:
    """What the user asked last: the prompt that answers, tool calls and tool results are judged against."""
    return next((m.text for m in reversed(messages) if isinstance(m, HumanMessage)), "")


def unanswered(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages since the last answer of the model."""
    last = max((i for i, m in enumerate(messages) if isinstance(m, AIMessage)), default=-1)
    return list(messages[last + 1 :])


def call_text(call: ToolCall) -> str:
    """A tool call as the judge reads it."""
    return json.dumps({"name": call["name"], "arguments": call["args"]}, ensure_ascii=False)


def messages_of(state: Any) -> list[BaseMessage]:
    """An agent's messages, whatever kind of state it keeps."""
    if isinstance(state, list):
        return state
    found = state.get("messages") if isinstance(state, Mapping) else getattr(state, "messages", None)
    return list(found or [])


def refusal(words: str, report: dict[str, Any]) -> AIMessage:
    """The answer that stands in for a stopped one: marked as LangChain marks refusals, and without tool calls."""
    return AIMessage(words, additional_kwargs={"refusal": words}, response_metadata=_metadata(report))


def reworded(message: BaseMessage, words: str, verdict: Verdict) -> BaseMessage:
    """The model's message with other words; its tool calls stay, for they are judged on their own."""
    if not isinstance(message, AIMessage):
        return message
    update = {
        "content": words,
        "additional_kwargs": {"refusal": words},
        "response_metadata": {**message.response_metadata, **_metadata(verdict.report())},
    }
    return message.model_copy(update=update)


def stopped_tool(words: str, verdict: Verdict, *, call_id: str, name: str | None) -> ToolMessage:
    """The result that stands in for a call that was not made, or for a result that is not passed on."""
    return ToolMessage(
        words, tool_call_id=call_id, name=name, status="error", response_metadata=_metadata(verdict.report())
    )


def is_stopped(message: BaseMessage) -> bool:
    """Is this the result of a tool call that the middleware stopped?"""
    return isinstance(message, ToolMessage) and bool(report_of(message).get("blocked"))


def report_of(message: BaseMessage) -> dict[str, Any]:
    """The guard's report on a message."""
    return dict(message.response_metadata.get("inference_guard") or {})


def _metadata(report: dict[str, Any]) -> dict[str, Any]:
    return {"finish_reason": "content_filter", "inference_guard": report}
