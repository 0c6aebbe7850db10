"""Labelled answers and preference pairs from JSON lines or CSV files, split by prompt and never by row."""

import csv
import gzip
import io
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from critic_models.errors import ConfigurationError
from critic_models.judges.protocol import Kind

FORMATS = (".jsonl", ".ndjson", ".csv", ".tsv")
LABELS = ("label", "unsafe")
ANSWER, PAIR = ("prompt", "response"), ("prompt", "chosen", "rejected")
LARGEST_FIELD = 2**24  # characters of a CSV field


class Answer(NamedTuple):
    """An answer and whether it is unsafe (1) or not (0)."""

    prompt: str
    response: str
    label: int


class Pair(NamedTuple):
    """Two answers to one prompt; the first is preferred. For a cost: it is the safer one."""

    prompt: str
    chosen: str
    rejected: str


@dataclass
class Examples:
    """What a head learns from or is measured on."""

    answers: list[Answer] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """Labels make a cost model, pairs alone a reward model."""
        return "cost" if self.answers else "reward"

    @property
    def prompts(self) -> list[str]:
        """Every prompt once, in order."""
        return list(dict.fromkeys([*(row.prompt for row in self.answers), *(row.prompt for row in self.pairs)]))

    def __add__(self, other: "Examples") -> "Examples":
        return Examples(self.answers + other.answers, self.pairs + other.pairs)

    def of(self, prompts: Iterable[str]) -> "Examples":
        """The rows with these prompts."""
        kept = set(prompts)
        return Examples([r for r in self.answers if r.prompt in kept], [r for r in self.pairs if r.prompt in kept])

    def without(self, prompts: Iterable[str]) -> "Examples":
        """The rows with any other prompt."""
        left_out = set(prompts)
        return self.of(prompt for prompt in self.prompts if prompt not in left_out)


def folds(prompts: Sequence[str], count: int, *, seed: int) -> list[list[str]]:
    """Distinct prompts in so many parts of about equal size.

    Raises:
        ConfigurationError: Fewer prompts than parts.
    """
    if len(prompts) < count:
        raise ConfigurationError(f"{len(prompts)} prompts cannot be split into {count} parts; give more prompts")
    order = sorted(prompts)
    random.Random(seed).shuffle(order)
    return [order[part::count] for part in range(count)]


def read_examples(paths: Sequence[str | Path]) -> Examples:
    """All rows of some files, which may mix answers and pairs; every row says by its columns which it is.

    Args:
        paths: ``.jsonl``, ``.ndjson``, ``.csv`` or ``.tsv``, each also with ``.gz``. Columns ``prompt``, ``response``
            and ``label`` (or ``unsafe``), 0 or 1; or ``prompt``, ``chosen`` and ``rejected``.

    Raises:
        ConfigurationError: No such file, nothing in it, or a row that cannot be learnt from; names file and line.
    """
    found = Examples()
    for path in map(Path, paths):
        before = len(found.answers) + len(found.pairs)
        for number, row in _rows(path):
            where = f"{path}, line {number}"
            if set(PAIR) <= row.keys():
                found.pairs.append(_pair(where, row))
            elif set(ANSWER) <= row.keys():
                found.answers.append(_answer(where, row))
            else:
                raise ConfigurationError(
                    f"{where}: its columns are {', '.join(map(repr, row)) or 'none'}; give prompt, response and label "
                    "for a cost model, or prompt, chosen and rejected for a reward model"
                )
        if len(found.answers) + len(found.pairs) == before:
            raise ConfigurationError(f"{path} holds no rows; give at least one")
    return found


def read_texts(path: str | Path) -> list[tuple[str, str]]:
    """Pairs of prompt and response, labelled or not.

    Raises:
        ConfigurationError: As ``read_examples``.
    """
    rows = []
    for number, row in _rows(Path(path)):
        where = f"{path}, line {number}"
        rows.append((_text(where, row, "prompt"), _text(where, row, "response", may_be_empty=True)))
    if not rows:
        raise ConfigurationError(f"{path} holds no rows; give at least one")
    return rows


def _answer(where: str, row: dict[str, Any]) -> Answer:
    column = next((name for name in LABELS if name in row), None)
    if column is None:
        raise ConfigurationError(f"{where}: no column label (or unsafe); say 1 for an unsafe answer and 0 for others")
    prompt, response = _text(where, row, "prompt"), _text(where, row, "response", may_be_empty=True)
    return Answer(prompt, response, _label(where, column, row[column]))


def _label(where: str, column: str, value: Any) -> int:
    if isinstance(value, str) and value.strip() in ("0", "1"):
        return int(value)
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    raise ConfigurationError(f"{where}: {column} is {value!r}; give 1 for an unsafe answer and 0 for others")


def _pair(where: str, row: dict[str, Any]) -> Pair:
    pair = Pair(_text(where, row, "prompt"), *(_text(where, row, name, may_be_empty=True) for name in PAIR[1:]))
    if pair.chosen.strip() == pair.rejected.strip():
        raise ConfigurationError(
            f"{where}: chosen and rejected are the same text; there is nothing to prefer, remove it"
        )
    return pair


def _text(where: str, row: dict[str, Any], column: str, *, may_be_empty: bool = False) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        what = "is empty" if isinstance(value, str) else f"is {type(value).__name__}"
        raise ConfigurationError(f"{where}: {column} {what}; give a text")
    return value


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith(FORMATS):
        raise ConfigurationError(f"'{path}' is no known data file; give one of {', '.join(FORMATS)}, also with .gz")
    content = _content(path)
    if name.endswith((".csv", ".tsv")):
        yield from _csv(path, content, delimiter="\t" if name.endswith(".tsv") else ",")
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"{path}, line {number}: broken JSON ({error.msg}); mend or remove it") from error
        if not isinstance(row, dict):
            raise ConfigurationError(f"{path}, line {number}: a {type(row).__name__}; every line is a JSON object")
        yield number, row


def _csv(path: Path, content: str, *, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    usual = csv.field_size_limit(LARGEST_FIELD)  # it is the whole process's
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True, delimiter=delimiter)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ConfigurationError(f"{path}, line {reader.line_num}: not as many fields as the header")
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise ConfigurationError(f"{path}, line {reader.line_num}: broken CSV ({error}); mend or remove it") from error
    finally:
        csv.field_size_limit(usual)


def _content(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigurationError(f"no data file at '{path}'; check the path") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read '{path}' ({error}); give a UTF-8 text file") from error
