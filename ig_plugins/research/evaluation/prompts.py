"""Reading prompts from a file: JSON lines, CSV, or one prompt a line."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ig_plugins.errors import ConfigurationError

GUESSES = ("prompt", "question", "instruction", "query", "input", "text")
GROUPS = ("group", "kind", "category")
FORMATS = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".csv": "CSV", ".tsv": "CSV", ".txt": "plain text"}


class Prompt(NamedTuple):
    """One prompt of a file.

    Attributes:
        text: The prompt.
        group: Value of a column named group, kind or category; figures are also given per group.
        line: Where it stood, from 1.
    """

    text: str
    group: str | None = None
    line: int = 0


def load_prompts(path: str | Path, *, column: str | None = None, limit: int | None = None) -> list[Prompt]:
    """The prompts of a file, in order.

    Args:
        path: ``.jsonl`` (an object or a string a line), ``.csv``/``.tsv`` with a header, or ``.txt`` (one a line).
        column: Which column holds the prompt; None guesses ``prompt``, ``question``, ``instruction``, ``query``,
            ``input`` or ``text``, or takes the only column.
        limit: Read at most so many.

    Raises:
        ConfigurationError: No file, nothing in it, no such column, or a broken line; the message names the line.
    """
    path = Path(path)
    if limit is not None and not (type(limit) is int and limit >= 1):
        raise ConfigurationError(f"limit is {limit}; give at least 1, or leave it out for all prompts")
    if path.suffix.lower() not in FORMATS:
        raise ConfigurationError(f"'{path}' is not a known prompt file; use one of {', '.join(sorted(FORMATS))}")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigurationError(f"no prompt file at '{path}'; check the path") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from error
    prompts = []
    for prompt in _read(path, content, column):
        prompts.append(prompt)
        if len(prompts) == limit:
            break
    if not prompts:
        raise ConfigurationError(f"'{path}' holds no prompts; give at least one")
    return prompts


def _read(path: Path, content: str, column: str | None) -> Iterator[Prompt]:
    kind = FORMATS[path.suffix.lower()]
    if kind == "plain text":
        for number, line in enumerate(content.split("\n"), start=1):
            if line.strip():
                yield Prompt(line.strip(), None, number)
        return
    rows = _csv(path, content) if kind == "CSV" else _json_lines(path, content)
    chosen = column
    for number, row in rows:
        if isinstance(row, str):
            yield Prompt(_text(path, number, "prompt", row), None, number)
            continue
        chosen = chosen or _guess(path, number, row)
        if chosen not in row:
            raise ConfigurationError(
                f"{path}, line {number}: no column '{chosen}'; it has {', '.join(map(repr, row)) or 'none'}"
            )
        group = next((str(row[name]) for name in GROUPS if name in row and name != chosen), None)
        yield Prompt(_text(path, number, chosen, row[chosen]), group, number)


def _text(path: Path, number: int, column: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        what = "is empty" if value is None or isinstance(value, str) else f"is a {type(value).__name__}"
        raise ConfigurationError(f"{path}, line {number}: '{column}' {what}; every prompt must be a non-empty text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{path}, line {number}: '{column}' holds half a character (a lone surrogate); mend or remove the line"
        ) from None
    return value


def _guess(path: Path, number: int, row: dict[str, Any]) -> str:
    names = {name.lower(): name for name in row}
    for guess in GUESSES:
        if guess in names:
            return names[guess]
    if len(row) == 1:
        return next(iter(row))
    raise ConfigurationError(
        f"{path}, line {number}: which column is the prompt? It has {', '.join(map(repr, row)) or 'none'}; name one"
    )


def _json_lines(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigurationError(
                f"{path}, line {number}: broken JSON ({error.msg} at column {error.colno}); mend or remove the line"
            ) from error
        except RecursionError:
            raise ConfigurationError(f"{path}, line {number}: JSON nested too deep; mend or remove the line") from None
        if not isinstance(row, dict | str):
            raise ConfigurationError(
                f"{path}, line {number}: a {type(row).__name__}; each line is an object or a string"
            )
        yield number, row


def _csv(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(content, newline=""), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ConfigurationError(f"{path}, line {number}: broken CSV ({error}); mend or remove the line") from error
        if not fields:
            continue
        if header is None:
            header = fields
        elif len(fields) != len(header):
            raise ConfigurationError(
                f"{path}, line {number}: {len(fields)} fields, the header has {len(header)}; mend or remove the line"
            )
        else:
            yield number, dict(zip(header, fields, strict=True))
