"""What the middleware stands on: one judge with its limit, and the messages of an agent seen as texts to judge."""

import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage, BaseMessageChunk, HumanMessage, ToolMessage
from langchain_core.messages.tool import ToolCall

from critic_models.judges import Judge
from ig_plugins.errors import ConfigurationError
from ig_plugins.runtime.judging import JUDGE_SECONDS, ask_judge
from langchain_inferenceguard._parts import said, words_in_names

# In the arguments of a call that was stopped, instead of them. Who forges it stops their own call.
STOPPED = "stopped_by_inference_guard"
REMEMBERED = 1 << 16
# What a message that stands in for a flagged one keeps of its metadata; token probabilities, say, spell the answer.
_KEPT = ("model_name", "model_provider", "id")
_FIELDS = ("id", "name", "role", "tool_calls", "tool_call_id", "usage_metadata")

Stage = Literal["input", "output", "tool_call", "tool_result"]


@dataclass(frozen=True)
class Verdict:
    """What the judge said about one text; never the text itself."""

    stage: Stage
    judge: str
    score: float
    limit: float
    unread: str | None = None  # a kind of block that the judge cannot read

    @property
    def blocked(self) -> bool:
        """Above the limit, or not to be read; a score equal to the limit is still safe."""
        return self.unread is not None or self.score > self.limit

    def report(self) -> dict[str, Any]:
        """As `inference_guard` in a message's metadata."""
        reason = f"{self.stage}: {self.judge} scored {self.score:.4g}, the limit is {self.limit:.4g}"
        if self.unread is not None:
            reason = f"{self.stage}: holds a block of type {self.unread!r}, which {self.judge} cannot read"
        return {
            "blocked": self.blocked,
            "reason": reason if self.blocked else None,
            "stage": self.stage,
            "judge": self.judge,
            "cost": None if self.unread is not None else self.score,
            "limit": self.limit,
        }


class Screen:
    """Asks a judge whether texts may pass, and remembers what did.

    The memory is this object's: a keyed digest of stage, prompt and text. So nothing that a client or an older process
    puts into a message or a checkpoint makes a text count as passed; what is not remembered is judged.

    Args:
        judge: Scores a text as a response to a prompt; higher is worse.
        limit: The highest score that passes; the judge's own default if None.
        judge_timeout: Seconds that the judge may take for one call.

    Raises:
        ConfigurationError: A limit or a time that is no finite number.
    """

    def __init__(self, judge: Judge, limit: float | None, *, judge_timeout: float = JUDGE_SECONDS) -> None:
        if not (isinstance(judge_timeout, int | float) and 0 < judge_timeout < math.inf):
            raise ConfigurationError(f"judge_timeout is {judge_timeout!r}; give a number of seconds above 0")
        self.judge, self.judge_timeout = judge, float(judge_timeout)
        self.limit = judge.default_limit if limit is None else float(limit)
        if not math.isfinite(self.limit):
            raise ConfigurationError(f"limit is {limit}; give a finite number, or None for {judge.default_limit}")
        self._key = secrets.token_bytes(32)
        self._passed: dict[bytes, float] = {}

    def look(self, stage: Stage, *texts: str, prompt: str = "") -> Verdict:
        """The verdict on texts that belong together: that on the worst of them, or on all as one.

        Raises:
            JudgeError: The judge failed, took too long or asked itself. The texts have not been judged then, and must
                not pass.
        """
        asked = [text for text in dict.fromkeys(texts) if self._digest("own", "", text) not in self._passed]
        if len(asked) > 1:
            asked.append("\n".join(asked))
        known = {text: self._passed.get(self._digest(stage, prompt, text)) for text in asked}
        fresh = [text for text, score in known.items() if score is None]
        ended = [True] * len(fresh)
        prompts = [prompt] * len(fresh)
        scores = ask_judge(self.judge, prompts, fresh, finished=ended, seconds=self.judge_timeout) if fresh else []
        for text, score in zip(fresh, scores, strict=True):
            known[text] = float(score)
            if score <= self.limit:
                self._remember(self._digest(stage, prompt, text), float(score))
        worst = max((score for score in known.values() if score is not None), default=-math.inf)
        return Verdict(stage, self.judge.name, worst, self.limit)

    def vouch(self, text: str) -> None:
        """The text is the middleware's own, and is not judged."""
        self._remember(self._digest("own", "", text), -math.inf)

    def _remember(self, digest: bytes, score: float) -> None:
        if len(self._passed) >= REMEMBERED:
            self._passed.clear()  # judged anew when seen again
        self._passed[digest] = score

    def _digest(self, *parts: str) -> bytes:
        data = b"".join(len(part).to_bytes(8, "big") + part.encode("utf-8", "surrogatepass") for part in parts)
        return hmac.digest(self._key, data, hashlib.sha256)


def asked(messages: Sequence[BaseMessage]) -> str:
    """What the user asked last: the prompt that answers, tool calls and tool results are judged against."""
    return next((said(m) for m in reversed(messages) if isinstance(m, HumanMessage)), "")


def unanswered(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The messages since the last answer of the model."""
    last = max((i for i, m in enumerate(messages) if isinstance(m, AIMessage)), default=-1)
    return list(messages[last + 1 :])


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
    """The message with other words in its place and nothing else of it but its calls, which are judged on their own."""
    return _anew(
        message,
        verdict,
        content=words,
        additional_kwargs={"refusal": words} if isinstance(message, AIMessage) else {},
        **({"name": None, "role": "user"} if words_in_names(message) else {}),
    )


def without_calls(message: AIMessage, stopped: Sequence[ToolCall], words: str, verdict: Verdict) -> AIMessage:
    """The model's message with what it says, and words instead of some calls' arguments, wherever they stood."""
    changed = _anew(
        message,
        verdict,
        content=str(message.text),
        tool_calls=[{**call, "args": {STOPPED: words}} if call in stopped else call for call in message.tool_calls],
        additional_kwargs={key: v for key, v in message.additional_kwargs.items() if key == "refusal"},
    )
    return changed  # type: ignore[return-value]


def _anew(message: BaseMessage, verdict: Verdict, **update: Any) -> BaseMessage:
    """A message of LangChain's own class, with the fields that are named here and no other: any may hold words."""
    kinds: list[type[BaseMessage]] = [kind for kind in type(message).__mro__ if issubclass(kind, BaseMessage)]
    ours = (kind for kind in kinds if kind.__module__.startswith("langchain_core."))
    kind = next(kind for kind in ours if not issubclass(kind, BaseMessageChunk))
    metadata = {key: value for key, value in message.response_metadata.items() if key in _KEPT}
    kept = {key: getattr(message, key) for key in _FIELDS if hasattr(message, key)}
    given = {**kept, "response_metadata": {**metadata, **_metadata(verdict.report())}, **update}
    return kind(**{key: value for key, value in given.items() if key in kind.model_fields})


def stopped_tool(
    words: str, report: dict[str, Any], *, call_id: str, name: str | None, id: str | None = None
) -> ToolMessage:
    """The result that stands in for a call that was not made, or for a result that is not passed on."""
    return ToolMessage(
        words, tool_call_id=call_id, name=name, id=id, status="error", response_metadata=_metadata(report)
    )


def is_stopped(message: BaseMessage) -> bool:
    """Is this the result of a tool call that the middleware stopped?"""
    return isinstance(message, ToolMessage) and bool(report_of(message).get("blocked"))


def report_of(message: BaseMessage) -> dict[str, Any]:
    """The guard's report on a message."""
    return dict(message.response_metadata.get("inference_guard") or {})


def _metadata(report: dict[str, Any]) -> dict[str, Any]:
    return {"finish_reason": "content_filter", "inference_guard": report}
