"""Requests to a server: a pool of connections, typed errors, and another try where nobody has heard of the first.

A reply is used whole or not at all, and text leaves only after a block was judged. So a call that was not answered can
be sent again without anything leaving twice.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from critic_models import strict_json
from critic_models.api_key import bearer, without_key
from critic_models.exchange import NoReplyError, Wire
from critic_models.http_loop import loop
from ig_plugins.errors import (
    ConfigurationError,
    RemoteBusyError,
    RemoteError,
    RemoteReplyError,
    RemoteTimeoutError,
    RemoteUnavailableError,
)
from ig_plugins.remote.options import RemoteOptions

BUSY = (429, 503)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before another try; doubled each time
SECONDS = re.compile(r"[0-9]{1,9}")


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
        keep: Whether connections are used again, see `Wire`.
    """

    def __init__(self, base: str, options: RemoteOptions, *, keep: bool = False) -> None:
        self.base, self._options = base, options
        self._wire = Wire(connect_seconds=options.probe_seconds, connections=options.connections, keep=keep)

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
        failed: NoReplyError | None = None
        try:
            reply = await self._wire.exchange(
                self.base + ask.path,
                ask.body,
                headers=bearer(self._options.key_env),
                seconds=seconds,
                most_bytes=ask.most_bytes,
            )
        except NoReplyError as error:
            failed = error
        if failed is not None:
            raise self._none(ask, failed, seconds)
        if reply.status != 200:
            raise self._refused(ask, reply.status, reply.headers, said=reply.content if probing else b"")
        try:
            return strict_json.loads(reply.content)
        except ValueError:
            if probing:
                return reply.content.decode(errors="replace")
        raise RemoteReplyError(f"{self.base}{ask.path} gave a reply that is no JSON; nothing of it is used")

    def _none(self, ask: Ask, failed: NoReplyError, seconds: float) -> RemoteError | ConfigurationError:
        """That there is no reply, as an error."""
        if failed.why == "late":
            return RemoteTimeoutError(
                f"{self.base} did not reply within {seconds:.3g} s; give its requests more time with request_seconds, "
                "or see whether it hangs"
            )
        if failed.why == "unreachable":
            return RemoteUnavailableError(
                f"{self.base} cannot be reached or hung up ({failed}); see whether the server runs"
            )
        if failed.why == "unusable":
            return ConfigurationError(
                f"{self.base} cannot be asked ({failed}); see the address, and what the environment says of proxies "
                "(HTTP_PROXY, ALL_PROXY) and certificates (SSL_CERT_FILE)"
            )
        return RemoteReplyError(f"{self.base}{ask.path} gave a reply that is not used: {failed}")

    def _refused(self, ask: Ask, status: int, headers: Mapping[str, str], *, said: bytes) -> RemoteError:
        """An HTTP status as an error. What the server says may quote a user's prompt, so it is shown of probes only."""
        where = f"{self.base}{ask.path} gave status {status}"
        if said:
            where += f" and {without_key(said.decode(errors='replace'), self._options.key_env)[:300]!r}"
        if status in BUSY:
            wait = headers.get("retry-after", "")
            return RemoteBusyError(
                f"{where}: it takes no more requests for now; ask later, or send fewer at once",
                retry_after=float(wait) if SECONDS.fullmatch(wait) else None,
            )
        if status in (401, 403):
            return RemoteReplyError(f"{where}: it wants a key; put it into {self._options.key_env}")
        if status >= 500:
            return RemoteUnavailableError(f"{where}: it failed; its own log says why")
        return RemoteReplyError(f"{where}: it does not take this request; its own log says why")
