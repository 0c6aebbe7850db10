"""Answers as OpenAI's clients read them, whole and in pieces, for chats and for texts."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from ig_plugins.guard import GuardResult
from ig_plugins.guard.request_handle import GuardChunk
from ig_plugins.server.served import Served

REPORT = "inference_guard"
HEADERS = ("blocked", "certified", "cost", "seed")  # of a report, as response headers
SHOWN = tuple(f"x-inference-guard-{name}" for name in HEADERS)


class Form:
    """One endpoint's form of an answer.

    Args:
        served: Who answers.
    """

    kind, piece_kind, letters = "text_completion", "text_completion", "cmpl"

    def __init__(self, served: Served) -> None:
        self._head = {
            "id": f"{self.letters}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }

    def whole(self, results: Sequence[GuardResult], prompts: int) -> dict[str, Any]:
        """All answers in one object.

        Args:
            results: In the order of prompts, the answers to a prompt together.
            prompts: How many there were.
        """
        choices = [self._finished(index, each) for index, each in enumerate(results)]
        body = {**self._head, "object": self.kind, "choices": choices, "usage": usage(results, prompts)}
        if len(results) == 1:
            return body | {REPORT: results[0].report()}
        for choice, result in zip(choices, results, strict=True):
            choice[REPORT] = result.report()
        return body

    def begun(self, answers: int, *, counts: bool) -> list[dict[str, Any]]:
        """What a stream begins with."""
        return []

    def piece(self, index: int, chunk: GuardChunk, *, only: bool, counts: bool) -> list[dict[str, Any]]:
        """A piece of an answer, and its end with the last one.

        Args:
            index: Of the answer.
            chunk: The piece.
            only: There is no other answer in this stream, so that the report stands where that of a whole answer does.
            counts: Usage comes at the end, so all chunks before say that they have none.
        """
        text = chunk.text
        if chunk.result is not None and not chunk.result.text:  # nothing of it has been streamed
            text += chunk.result.content
        pieces = [self._chunk([self._delta(index, text)], counts=counts)] if text else []
        if chunk.result is not None:
            end, report = self._end(index, chunk.result), {REPORT: chunk.result.report()}
            if only:
                pieces.append({**self._chunk([end], counts=counts), **report})
            else:
                pieces.append(self._chunk([{**end, **report}], counts=counts))
        return pieces

    def total(self, results: Sequence[GuardResult], prompts: int) -> dict[str, Any]:
        """The chunk that only says what the answers took."""
        return {**self._chunk([], counts=True), "usage": usage(results, prompts)}

    def _chunk(self, choices: list[dict[str, Any]], *, counts: bool) -> dict[str, Any]:
        chunk = {**self._head, "object": self.piece_kind, "choices": choices}
        return {**chunk, "usage": None} if counts else chunk

    def _finished(self, index: int, result: GuardResult) -> dict[str, Any]:
        return {"index": index, "text": result.content, "logprobs": None, "finish_reason": result.finish_reason}

    def _delta(self, index: int, text: str) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def _end(self, index: int, result: GuardResult) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": result.finish_reason}


class ChatForm(Form):
    """The form of ``/v1/chat/completions``."""

    kind, piece_kind, letters = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def begun(self, answers: int, *, counts: bool) -> list[dict[str, Any]]:
        """See `Form`: the role, once an answer."""
        opening = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk([self._choice(index, opening)], counts=counts) for index in range(answers)]

    def _finished(self, index: int, result: GuardResult) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": result.content, "refusal": _refusal(result)}
        if result.tool_calls:
            message |= {"content": result.text or None, "tool_calls": tool_calls(result)}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": result.finish_reason}

    def _delta(self, index: int, text: str) -> dict[str, Any]:
        return self._choice(index, {"content": text})

    def _end(self, index: int, result: GuardResult) -> dict[str, Any]:
        delta: dict[str, Any] = {"refusal": refused} if (refused := _refusal(result)) else {}
        if result.tool_calls:
            delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(tool_calls(result))]
        return self._choice(index, delta) | {"finish_reason": result.finish_reason}

    @staticmethod
    def _choice(index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def headers(results: Sequence[GuardResult]) -> dict[str, str]:
    """The report's main figures as response headers; of several answers, those of the first."""
    report = results[0].report()
    told = {name: report[name] for name in HEADERS if report[name] is not None}
    return {f"x-inference-guard-{name}": json.dumps(value) for name, value in told.items()}


def usage(results: Sequence[GuardResult], prompts: int) -> dict[str, int]:
    """Tokens of the prompts, each counted once, and of the answers."""
    each = len(results) // prompts
    read = sum(result.usage.prompt_tokens for result in results[::each])
    written = sum(result.usage.completion_tokens for result in results)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def tool_calls(result: GuardResult) -> list[dict[str, Any]]:
    """An answer's calls in OpenAI's form."""
    return [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
        }
        for call in result.tool_calls
    ]


def _refusal(result: GuardResult) -> str | None:
    return (result.text or None) if result.blocked else None
