"""The answers of a calibration, kept as they come, so that a stopped one goes on where it was."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ig_plugins.errors import ConfigurationError, MismatchError


class KeptAnswer(BaseModel):
    """What a certificate needs to know of one answer.

    Attributes:
        limit: The budget that was tested, or one for each cost model.
        prompt: Index of the prompt.
        text: What was released.
        blocked: Nothing passed.
        finished: It ended by itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: float | tuple[float, ...]
    prompt: int
    text: str
    blocked: bool
    finished: bool


class AnswerLog:
    """A file of answers, one a line after the run that they are of. Several threads may add to it.

    Args:
        path: Made with its folder if missing.
        run: What the answers depend on. A file of another run is refused.

    Raises:
        MismatchError: The file is of another run.
        ConfigurationError: A line of it, other than a half-written last one, is broken.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._found: dict[tuple[float | tuple[float, ...], int], KeptAnswer] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        head, *lines = self._whole_lines() or [b""]
        ours = json.dumps({"run": run}, sort_keys=True)
        if not head:
            self._append(ours)
        elif head.decode(errors="replace") != ours:
            raise MismatchError(
                f"'{path}' holds answers of another calibration; repeat its command to go on with it, delete the file, "
                "or choose another --out"
            )
        for number, line in enumerate(lines, start=2):
            try:
                answer = KeptAnswer.model_validate_json(line)
            except ValidationError as error:
                raise ConfigurationError(f"{path}, line {number}: not an answer; remove the line") from error
            self._found[answer.limit, answer.prompt] = answer

    def get(self, limit: float | tuple[float, ...], prompt: int) -> KeptAnswer | None:
        """The answer to a prompt under a limit, if there is one."""
        return self._found.get((limit, prompt))

    def add(self, answer: KeptAnswer) -> None:
        """Keeps an answer, on disk when this returns."""
        with self._lock:
            self._append(answer.model_dump_json())
            self._found[answer.limit, answer.prompt] = answer

    def _append(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self) -> list[bytes]:
        """The lines that were written to their end; what follows the last of them is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return whole.splitlines()
