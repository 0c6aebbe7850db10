"""Where a remote policy is: ``vllm+http://host:8000/name``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from ig_plugins.errors import ConfigurationError, did_you_mean

Kind = Literal["vllm", "llamacpp", "openai"]
KINDS = get_args(Kind)
FORM = re.compile(r"([A-Za-z0-9_.-]+)\+(https?)://")


def is_remote(model: Any) -> bool:
    """Whether a model's name is a server's address."""
    return isinstance(model, str) and FORM.match(model) is not None


@dataclass(frozen=True)
class Address:
    """A server, and the model that it is asked for.

    Attributes:
        kind: What the server speaks.
        base: Such as ``http://host:8000``.
        model: As the server names it; empty for the only one.
    """

    kind: Kind
    base: str
    model: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads an address.

        Raises:
            ConfigurationError: It is none.
        """
        found = FORM.match(text)
        if found is None or found[1] not in KINDS:
            kind = found[1] if found else text
            allowed = ", ".join(f"{each}+http://host:port/name" for each in KINDS)
            raise ConfigurationError(f"{kind!r} is no kind of server; write {allowed}.{did_you_mean(kind, KINDS)}")
        form = f"{found[1]}+http://host:port/name"
        if "@" in text.partition("//")[2].partition("/")[0]:
            raise ConfigurationError(
                "the address holds a name or password, which would be shown in results; put the server's key into the "
                "environment, see key_env in docs/remote.md"
            )
        try:
            rest = urlsplit(text.partition("+")[2])
            port = rest.port
        except ValueError:
            raise ConfigurationError(
                f"the address has a host that is none, or a port that is no number up to 65535; write {form}"
            ) from None
        if not rest.hostname or rest.query or rest.fragment:
            raise ConfigurationError(f"the address must be {form}, without ? and #")
        host = f"[{rest.hostname}]" if ":" in rest.hostname else rest.hostname
        base = f"{rest.scheme}://{host}" + (f":{port}" if port else "")
        return cls(cast("Kind", found[1]), base, rest.path.strip("/"))

    def __str__(self) -> str:
        return f"{self.kind}+{self.base}" + (f"/{self.model}" if self.model else "")
