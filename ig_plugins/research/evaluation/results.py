"""One row an answer, kept in an append-only file that survives interruption."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from critic_models.validation import explain
from ig_plugins.errors import ConfigurationError, MismatchError


class Key(NamedTuple):
    """What a row is the answer of."""

    method: str
    prompt: int
    seed: int


class ResultRow(BaseModel):
    """One answer of one method to one prompt under one seed.

    Attributes:
        method: The method's label, its number of candidates included.
        family: The method without the number.
        candidates: N.
        prompt: Index of the prompt.
        seed: The seed.
        group: The prompt's group, if its file names one.
        text: What the user sees; the refusal if blocked.
        blocked: The method abstained.
        finished: The answer ended by itself.
        reward: The reward model's score of the text; None without a reward model.
        cost: By the cost models: discounted sum (cumulative) or highest score (worst), of the first cost model.
        state: Unspent budget at the end, the least of all cost models.
        safe: Safe at every checked step, for all cost models.
        safe_at_end: Safe at the last step.
        judged: The independent judge's score; None without one, or if blocked.
        unsafe: The judge's verdict; a refusal is not unsafe.
        more_judged: The scores of further independent judges by name; None if blocked.
        more_unsafe: Their verdicts.
        seconds: Wall clock, shared evenly by the prompts of a batch.
        tokens: Tokens of the answer.
        candidate_tokens: Tokens sampled for it.
        judge_calls: Calls of cost and reward models while searching.
        judge_tokens: Tokens that they read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    family: str
    candidates: int
    prompt: int
    seed: int
    group: str | None = None
    text: str
    blocked: bool
    finished: bool
    reward: float | None
    cost: float
    state: float
    safe: bool
    safe_at_end: bool
    judged: float | None
    unsafe: bool | None
    seconds: float
    tokens: int
    candidate_tokens: int
    judge_calls: int
    judge_tokens: int
    more_judged: dict[str, float | None] = {}
    more_unsafe: dict[str, bool] = {}

    @property
    def key(self) -> Key:
        """Method, prompt and seed."""
        return Key(self.method, self.prompt, self.seed)


class ResultStore:
    """``results.jsonl`` and ``run.json`` of one output folder.

    Args:
        folder: Made if missing.
        run: What the answers depend on. A folder that holds results of another run is refused.

    Raises:
        MismatchError: The folder belongs to another run.
        ConfigurationError: A line of results.jsonl, other than a half-written last one, is broken.
    """

    def __init__(self, folder: str | Path, run: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "results.jsonl"
        self._bind(run)
        self.rows = self._recover()
        self._done = {row.key for row in self.rows}

    def __contains__(self, key: Key) -> bool:
        return key in self._done

    def add(self, rows: Iterable[ResultRow]) -> None:
        """Appends rows and makes sure that they are on disk."""
        rows = list(rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(row.model_dump_json() + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows
        self._done |= {row.key for row in rows}

    def _bind(self, run: Mapping[str, Any]) -> None:
        record = self.folder / "run.json"
        ours = json.loads(json.dumps(run))
        if record.exists():
            try:
                theirs = json.loads(record.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise MismatchError(f"'{record}' is broken; choose another output folder") from error
            if theirs != ours:
                keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
                raise MismatchError(
                    f"'{self.folder}' holds results of another run (different: {', '.join(keys)}); "
                    "choose another output folder, or repeat the same command to resume"
                )
        elif self.path.exists():
            raise MismatchError(f"'{self.path}' exists without its run.json; choose another output folder")
        else:
            partial = record.with_name("run.json.partial")
            partial.write_text(json.dumps(ours, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            os.replace(partial, record)

    def _recover(self) -> list[ResultRow]:
        """Reads what is there; a last line without its newline was never finished and is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return [self._row(number, line) for number, line in enumerate(whole.splitlines(), start=1)]

    def _row(self, number: int, line: bytes) -> ResultRow:
        try:
            return ResultRow.model_validate_json(line)
        except ValidationError as error:
            raise ConfigurationError(
                f"{self.path}, line {number}: not a result ({explain(error, values=False)}); remove the line to "
                "have it answered again"
            ) from error
