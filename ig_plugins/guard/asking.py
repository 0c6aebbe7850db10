"""The way of a call: its prompts are encoded, submitted to the worker, and waited for, here or in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TypeAlias

from ig_plugins.chat import EncodedPrompt
from ig_plugins.errors import GuardBlockedError
from ig_plugins.guard.components import Components
from ig_plugins.guard.options import Options
from ig_plugins.guard.prompt_request import Prompt, build_request, decide, encode
from ig_plugins.guard.request_handle import GuardChunk, RequestHandle
from ig_plugins.guard.result import GuardResult
from ig_plugins.runtime import worker

Asked: TypeAlias = RequestHandle | Exception
"""A prompt under way, or why it cannot be answered."""


def encode_call(components: Components, prompt: Prompt, options: Options) -> EncodedPrompt:
    """The prompt in tokens; that of a forced call where the question asks for a tool."""
    return decide(components, prompt, encode(components, prompt, options), options)


def ask(
    components: Components, prompt: Prompt, options: Options, *, certified: bool | None, stream: bool = False
) -> RequestHandle:
    """A prompt that can be submitted.

    Args:
        components: The guard's.
        prompt: A text or a conversation.
        options: The call's.
        certified: Whether the guard's certificate speaks of the call.
        stream: Text is released while decoding.

    Raises:
        PromptError: The prompt cannot be answered.
    """
    encoded = encode_call(components, prompt, options)
    request = build_request(components, encoded, options, stream=stream)
    return RequestHandle(components.serving(request.budgets), encoded, request, options, certified=certified)


def ask_each(
    components: Components, prompts: Sequence[Prompt], options: Options, *, certified: bool | None, keep: bool
) -> list[Asked]:
    """As `ask`; with ``keep`` the exception of a prompt that cannot be answered stands in its place."""

    def one(prompt: Prompt) -> Asked:
        try:
            return ask(components, prompt, options, certified=certified)
        except Exception as error:
            if keep:
                return error
            raise

    return [one(each) for each in prompts]


def wait_for(asked: Sequence[Asked], *, keep: bool) -> list[GuardResult | Exception]:
    """Results in turn; with ``keep`` what fails is its exception, otherwise the others are given up.

    Raises:
        GuardBlockedError: Blocked, with ``on_block="raise"``.
        InferenceGuardError: As `RequestHandle.chunks`.
    """
    handles = _submit(asked)
    try:
        return [_result(each, keep=keep) for each in asked]
    finally:
        for handle in handles:
            handle.cancel()


async def await_all(asked: Sequence[Asked], *, keep: bool) -> list[GuardResult | Exception]:
    """As `wait_for`, without blocking the loop."""
    handles = _submit(asked, loop=asyncio.get_running_loop())
    try:
        return [await _aresult(each, keep=keep) for each in asked]
    finally:
        for handle in handles:
            handle.cancel()


def chunks_of(handle: RequestHandle) -> Generator[GuardChunk, None, None]:
    """Submits with the first ``next``; errors as in `wait_for`, and whoever stops listening stops the decoding."""
    _submit([handle])
    for chunk in handle.chunks():
        if chunk.result is not None:
            _unless_blocked(handle, chunk.result)
        yield chunk


async def achunks_of(handle: RequestHandle, *, begun: bool = False) -> AsyncGenerator[GuardChunk, None]:
    """As `chunks_of`, without blocking the loop.

    Args:
        handle: Not submitted yet.
        begun: Its time runs already.
    """
    _submit([handle], loop=asyncio.get_running_loop(), begun=begun)
    try:
        while True:
            chunk = await handle.anext()
            if chunk.result is not None:
                _unless_blocked(handle, chunk.result)
            yield chunk
            if chunk.result is not None:
                return
    finally:
        handle.cancel()


def _submit(
    asked: Sequence[Asked], *, loop: asyncio.AbstractEventLoop | None = None, begun: bool = False
) -> list[RequestHandle]:
    """Submits the handles among these to the worker; their time begins."""
    handles = [each for each in asked if isinstance(each, RequestHandle)]
    for handle in handles:
        if loop is not None:
            handle.listen(loop)
        if not begun:
            handle.begin()
    worker().submit(handles)
    return handles


def _result(asked: Asked, *, keep: bool) -> GuardResult | Exception:
    if isinstance(asked, Exception):
        return asked
    try:
        return _unless_blocked(asked, asked.result())
    except Exception as error:
        if keep:
            return error
        raise


async def _aresult(asked: Asked, *, keep: bool) -> GuardResult | Exception:
    if isinstance(asked, Exception):
        return asked
    try:
        return _unless_blocked(asked, await asked.aresult())
    except Exception as error:
        if keep:
            return error
        raise


def _unless_blocked(handle: RequestHandle, result: GuardResult) -> GuardResult:
    if result.blocked and handle.options.on_block == "raise":
        raise GuardBlockedError(f"the answer was blocked: {result.reason}", report=result.report())
    return result
