"""How a server is asked: the ``load_options`` of a remote policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from critic_models.validation import explain
from ig_plugins.errors import ConfigurationError


class RemoteOptions(BaseModel):
    """Settings of a connection.

    Attributes:
        seeds: Send a seed with every call; by default not to vLLM, whose CPU build dies of one.
        page: Tokens of a page of the server's prefix cache; by default what the server says. 0 for no alignment.
        most: Choices that one call may ask for; by default as many as the server shows that it can give.
        attempts: How often a call is sent that the server did not answer.
        connections: Open at once.
        request_seconds: That one call may take.
        probe_seconds: That a question about the server may take when it is attached.
        key_env: The environment variable with the server's key, sent as ``Authorization: Bearer``.
        version: What the server serves, in the operator's words. Only with it a certificate can speak of the policy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: bool | None = None
    page: int | None = Field(default=None, ge=0)
    most: int | None = Field(default=None, ge=1)
    attempts: int = Field(default=4, ge=1, le=20)
    connections: int = Field(default=128, ge=1)
    request_seconds: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    probe_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    key_env: str = "INFERENCEGUARD_REMOTE_KEY"
    version: str | None = Field(default=None, min_length=1)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> RemoteOptions:
        """Reads ``load_options``.

        Raises:
            ConfigurationError: A name or value that is not allowed.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            raise ConfigurationError(
                f"load_options of a remote policy: {explain(error)}; they are {', '.join(cls.model_fields)}"
            ) from None
