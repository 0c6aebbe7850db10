"""One HTTP request and its reply, for judges and policies behind servers: within a time and a size, or not at all.

What httpx and the libraries below it raise holds the request, and with it prompts. So it ends here, and only its type
is told.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx

Why = Literal["late", "unreachable", "malformed", "unusable"]
KEEP_ALIVE = 60.0  # seconds that an idle connection stays open


class NoReplyError(Exception):
    """There is no whole reply.

    Attributes:
        why: It came too late; nobody was reached, or hung up; it is none that is read; or it could not be asked for.
    """

    def __init__(self, why: Why, said: str) -> None:
        super().__init__(said)
        self.why = why


@dataclass(frozen=True)
class Reply:
    """A whole reply.

    Attributes:
        status: As HTTP has it.
        headers: As well.
        content: Its bytes, as they were sent.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


class Wire:
    """Connections to servers. They belong to the process that opened them, and to `http_loop`'s thread.

    A kept connection may hold a second reply behind the first, which would be read as the answer to the next request.
    Keep them only where a reply says to which request it belongs, or nothing is believed of it.

    Args:
        connect_seconds: That a connection may take to open.
        connections: Open at once.
        keep: Whether they are used again.
    """

    def __init__(self, *, connect_seconds: float, connections: int = 100, keep: bool) -> None:
        self._connect_seconds, self._connections, self._keep = connect_seconds, connections, keep
        self._client: httpx.AsyncClient | None = None
        self._process = 0

    async def exchange(
        self, url: str, body: Mapping[str, Any] | None, *, headers: Mapping[str, str], seconds: float, most_bytes: int
    ) -> Reply:
        """Asks once.

        Args:
            url: Where.
            body: Posted as JSON; None for a GET.
            headers: Beside the usual ones.
            seconds: Until the reply is whole.
            most_bytes: That it may have.

        Raises:
            NoReplyError: There is none.
        """
        why: Why
        try:
            return await asyncio.wait_for(self._whole(url, body, headers, most_bytes), timeout=seconds)
        except NoReplyError:
            raise
        except httpx.ConnectTimeout as error:
            why, name = "unreachable", type(error).__name__
        except (asyncio.TimeoutError, TimeoutError, httpx.TimeoutException) as error:
            why, name = "late", type(error).__name__
        except httpx.TransportError as error:
            why, name = "unreachable", type(error).__name__
        except httpx.HTTPError as error:
            why, name = "malformed", type(error).__name__
        except Exception as error:  # proxies and certificates of the environment, hosts that are none, half characters
            why, name = "unusable", type(error).__name__
        raise NoReplyError(why, name)

    async def _whole(
        self, url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str], most_bytes: int
    ) -> Reply:
        sent = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        typed = {} if sent is None else {"content-type": "application/json"}
        async with self._pool().stream(
            "GET" if sent is None else "POST", url, content=sent, headers={**headers, **typed}
        ) as response:
            if response.status_code == 200 and response.headers.get("content-encoding", "identity") != "identity":
                raise NoReplyError("malformed", "it is compressed, which was not asked for")
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > most_bytes:
                    raise NoReplyError("malformed", f"it has more than {most_bytes} bytes, which is far too long")
            return Reply(response.status_code, response.headers, bytes(content))

    def _pool(self) -> httpx.AsyncClient:
        """This process's client; only on the loop's thread."""
        if self._client is None or self._process != os.getpid():
            self._process = os.getpid()
            kept = self._connections if self._keep else 0
            self._client = httpx.AsyncClient(
                limits=httpx.Limits(
                    max_connections=self._connections, max_keepalive_connections=kept, keepalive_expiry=KEEP_ALIVE
                ),
                timeout=httpx.Timeout(None, connect=self._connect_seconds),  # the whole exchange has a limit
                headers={"accept-encoding": "identity"},  # a few bytes may unpack to more than there is memory
            )
        return self._client
