"""Requests to a server: a pool of connections, typed errors, and another try where nobody has heard of the first.

A reply is used whole or not at all, and text leaves only after a block was judged. So a call that was not answered can
be sent again without anything leaving twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from critic_models.api_key import bearer
from ig_plugins.errors import (
    RemoteBusyError,
    RemoteError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnavailableError,
)
from ig_plugins.remote.loop import loop
from ig_plugins.remote.options import RemoteOptions

BUSY = (429, 503)
KEEP_ALIVE = 60.0  # seconds that an idle connection stays open
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before another try; doubled each time


@dataclass(frozen=True)
class Ask:
    """One HTTP request.

    Attributes:
        path: Behind the server's base.
        body: Posted as JSON; None for a GET.
        most_bytes: That the reply may have.
    """

    path: str
    body: dict[str, Any] | None = None
    most_bytes: int = 2**22


class Connection:
    """A server's connections. They belong to the process that opened them.

    Args:
        base: Such as ``http://host:8000``.
        options: How it is asked.
    """

    def __init__(self, base: str, options: RemoteOptions) -> None:
        self.base, self._options = base, options
        self._client: httpx.AsyncClient | None = None
        self._process = 0

    def ask_all(self, asks: Sequence[Ask], *, on_step: Callable[[], None] | None = None) -> list[Any]:
        """The replies to some requests, which are all under way at once, as JSON.

        Args:
            asks: The requests.
            on_step: Called again and again while they are; what it raises hangs up on all of them.

        Raises:
            RemoteError: One of them failed; the others are given up.
        """
        return loop.run(self._all(asks), on_step=on_step)

    def ask(self, ask: Ask, *, seconds: float | None = None) -> Any:
        """The reply to a question about the server, sent once: JSON, or the text where it is none.

        Raises:
            RemoteError: It failed; the message has what the server says of it.
        """
        return loop.run(self._once(ask, seconds or self._options.request_seconds, probing=True))

    async def _all(self, asks: Sequence[Ask]) -> list[Any]:
        tasks = [asyncio.ensure_future(self._patiently(each)) for each in asks]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _patiently(self, ask: Ask) -> Any:
        """Asks again, after longer and longer pauses, where the server did not answer."""
        pause = FIRST_PAUSE
        for attempt in range(1, self._options.attempts + 1):
            try:
                return await self._once(ask, self._options.request_seconds)
            except (RemoteUnavailableError, RemoteBusyError) as error:
                if attempt == self._options.attempts:
                    raise
                wanted = error.retry_after if isinstance(error, RemoteBusyError) else None
            await asyncio.sleep(max(pause * random.uniform(0.5, 1.0), min(wanted or 0.0, LONGEST_PAUSE)))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise RemoteError(f"{self.base} was not asked; attempts is {self._options.attempts}")

    async def _once(self, ask: Ask, seconds: float, *, probing: bool = False) -> Any:
        """Sends a request. What httpx raises holds the request, and with it the prompt, so it is no cause of ours."""
        failed: RemoteError | None = None
        try:
            status, headers, content = await asyncio.wait_for(self._exchange(ask), timeout=seconds)
        except (asyncio.TimeoutError, TimeoutError, httpx.TimeoutException) as error:
            failed = self._late(error, seconds)
        except httpx.TransportError as error:
            failed = RemoteUnavailableError(
                f"{self.base} cannot be reached or hung up ({type(error).__name__}); see whether the server runs"
            )
        except httpx.HTTPError as error:
            failed = RemoteReplyError(f"{self.base} gave a reply that is no HTTP ({type(error).__name__})")
        if failed is not None:
            raise failed
        if status != 200:
            raise self._refused(ask, status, headers, said=content if probing else b"")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            if probing:
                return content.decode(errors="replace")
        raise RemoteReplyError(f"{self.base}{ask.path} gave a reply that is no JSON; nothing of it is used")

    async def _exchange(self, ask: Ask) -> tuple[int, httpx.Headers, bytes]:
        method = "GET" if ask.body is None else "POST"
        async with self._pool().stream(
            method, ask.path, json=ask.body, headers=bearer(self._options.key_env)
        ) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > ask.most_bytes:
                    raise RemoteReplyError(
                        f"{self.base}{ask.path} gave a reply of more than {ask.most_bytes} bytes; nothing of it is used"
                    )
            return response.status_code, response.headers, bytes(content)

    def _pool(self) -> httpx.AsyncClient:
        """This process's client; only on the loop's thread."""
        if self._client is None or self._process != os.getpid():
            most = self._options.connections
            self._process = os.getpid()
            self._client = httpx.AsyncClient(
                base_url=self.base,
                limits=httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEEP_ALIVE),
                timeout=httpx.Timeout(None, connect=self._options.probe_seconds),  # the whole call has a limit
            )
        return self._client

    def _late(self, error: BaseException, seconds: float) -> RemoteError:
        if isinstance(error, httpx.ConnectTimeout):
            return RemoteUnavailableError(f"{self.base} cannot be reached; see whether the server runs")
        return RemoteTimeoutError(
            f"{self.base} did not reply within {seconds:.3g} s; give its requests more time with request_seconds, or "
            "see whether it hangs"
        )

    def _refused(self, ask: Ask, status: int, headers: httpx.Headers, *, said: bytes) -> RemoteError:
        """An HTTP status as an error. What the server says may quote a user's prompt, so it is shown of probes only."""
        where = f"{self.base}{ask.path} gave status {status}"
        if said:
            where += f" and {said[:300].decode(errors='replace')!r}"
        if status in BUSY:
            wait = headers.get("retry-after", "")
            return RemoteBusyError(
                f"{where}: it takes no more requests for now; ask later, or send fewer at once",
                retry_after=float(wait) if wait.isdigit() else None,
            )
        if status in (401, 403):
            return RemoteReplyError(f"{where}: it wants a key; put it into {self._options.key_env}")
        if status >= 500:
            return RemoteUnavailableError(f"{where}: it failed; its own log says why")
        return RemoteReplyError(f"{where}: it does not take this request; its own log says why")
