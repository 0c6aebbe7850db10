"""What an operator allows one request, one connection and all of them together."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import Options

MIB = 2**20
CEILINGS = {  # a search's setting, and the ceiling that it must not pass
    "candidates": "candidates",
    "beams": "beams",
    "block_tokens": "block_tokens",
    "max_new_tokens": "max_tokens",
    "tries": "tries",
}


_WORDS = {"lane_tokens": "answers x (candidates + beams) x block_tokens", "answers": "n x prompts"}


class Limits(BaseModel):
    """The ceilings of a service. What a guard's own defaults ask for is always allowed.

    Attributes:
        body_bytes: The longest request body.
        prompt_tokens: The longest prompt; None for as long as the model's context.
        candidates, beams, block_tokens, max_tokens, tries: The most that a request may ask for.
        lane_tokens: Lanes times tokens of one block. A block is what others wait for, so this bounds how long.
        stops: Stop strings of a request.
        answers: Answers of one request, ``n`` times its prompts. They share the lane tokens.
        timeout: Seconds that an answer may take, waiting included; a client may only ask for less.
        running: Requests decoded at once.
        queued: Requests that wait for that; more are told to come back later.
        memory_bytes: What all requests under way may take together, by estimate; None for half of what is free.
        connections: Open at once. When all are taken, the one that has been silent longest makes room.
        head_seconds, body_seconds: For the head and for the body of a request to arrive.
        send_seconds: For a client to take what it is sent.
        drain_seconds: For answers under way, when the service is told to end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(default=MIB, ge=1)
    prompt_tokens: int | None = Field(default=None, ge=1)
    candidates: int = Field(default=128, ge=1)
    beams: int = Field(default=64, ge=1)
    block_tokens: int = Field(default=128, ge=1)
    max_tokens: int = Field(default=4096, ge=1)
    tries: int = Field(default=8, ge=1)
    lane_tokens: int = Field(default=4096, ge=1)
    stops: int = Field(default=16, ge=0)
    answers: int = Field(default=8, ge=1)
    timeout: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    running: int = Field(default=16, ge=1)
    queued: int = Field(default=64, ge=0)
    memory_bytes: int | None = Field(default=None, ge=1)
    connections: int = Field(default=256, ge=1)
    head_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    body_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    send_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    drain_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)

    def seconds(self, wanted: float | None) -> float:
        """How long an answer may take: what the client or the guard says, and the operator's time at most."""
        return self.timeout if wanted is None else min(self.timeout, wanted)

    def check(self, options: Options, defaults: Options, *, answers: int = 1) -> None:
        """Refuses settings that pass a ceiling.

        Args:
            options: The request's.
            defaults: The guard's.
            answers: How many are asked for.

        Raises:
            ConfigurationError: Names the setting, its value and the ceiling.
        """
        for name, ceiling in CEILINGS.items():
            most = max(getattr(self, ceiling), getattr(defaults.search, name))
            self._refuse(ceiling, getattr(options.search, name), most)
        self._refuse("answers", answers, self.answers)
        self._refuse("lane_tokens", answers * lane_tokens(options), max(self.lane_tokens, lane_tokens(defaults)))
        self._refuse("stops", len(options.stop), max(self.stops, len(defaults.stop)))

    def check_prompt(self, tokens: int) -> None:
        """Refuses a prompt that is too long.

        Raises:
            ConfigurationError: Names both lengths.
        """
        if self.prompt_tokens is not None:
            self._refuse("prompt_tokens", tokens, self.prompt_tokens)

    @staticmethod
    def _refuse(name: str, value: Any, most: Any) -> None:
        if value > most:
            what = _WORDS.get(name, name)
            raise ConfigurationError(
                f"{what} is {value}, and this server allows at most {most} (its limit {name}); ask for less"
            )


def lane_tokens(options: Options) -> int:
    """Lanes times tokens of the widest block that a request may have, beams kept for another try included."""
    search = options.search
    return (search.widest + search.beams) * min(search.block_tokens, search.max_new_tokens)
