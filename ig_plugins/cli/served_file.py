"""The configuration that ``calibrate`` leaves beside a certificate: ``serve`` takes it as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORDS = """# The guard of {certificate}, with exactly the certified settings. To serve it:
#   inferenceguard serve --config {name}
# Ceilings, keys and more can be added, see docs/serving.md. Requests with other settings are refused;
# outside_certificate = "mark" answers them and says so.
"""


def place(certificate: Path) -> Path:
    """Where the configuration of a certificate goes."""
    return certificate.with_name(f"{certificate.stem}.serve.toml")


def write(certificate: Path, name: str, table: Mapping[str, Any], options: Mapping[str, Any]) -> Path:
    """Writes it.

    Args:
        certificate: The file that it speaks of, in the same folder.
        name: As clients will say it.
        table: What is loaded; None is left out. Files are named from the root, as this one may be read from anywhere.
        options: The guard's.
    """
    path = place(certificate)
    parts = {key: _absolute(value) for key, value in table.items() if value is not None}
    lines = [
        WORDS.format(certificate=certificate.name, name=path.name),
        f"[models.{json.dumps(name)}]",
        *_lines({**parts, "certificate": certificate.name}),
        "",
        f"[models.{json.dumps(name)}.options]",
        *_lines(options),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _absolute(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    file, colon, function = value.partition(":")
    code = bool(colon) and file.endswith(".py")
    exists = Path(file if code else value).exists()
    return f"{Path(file).resolve()}:{function}" if code and exists else str(Path(value).resolve()) if exists else value


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]


def _toml(value: Any) -> str:
    """A value as TOML writes it; of strings, numbers, truths, lists and tables, JSON differs in the tables alone."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
