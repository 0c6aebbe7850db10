"""docs/options.md: ``python -m ig_plugins.guard.options_table`` writes it from `CallOptions`."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

from ig_plugins.call_options import WITHHELD, CallOptions, Door
from ig_plugins.guard.options import Options
from ig_plugins.search import SearchConfig


def table() -> str:
    """docs/options.md."""
    standard = {**SearchConfig().model_dump(), **{name: getattr(Options(), name) for name in Options.model_fields}}
    standard["max_tokens"] = standard["max_new_tokens"]
    lines = [_HEAD]
    for name, hint in get_type_hints(CallOptions, include_extras=True).items():
        kind, doc = get_args(hint)
        default = _code(repr(standard[name])) if name in standard else "the cost model's"
        lines.append(f"| `{name}` | {_code(_told(kind))} | {default} | {doc.documentation} | {_absent(name)} |\n")
    lines.append("\nWhere an option is not to be had:\n\n")
    for door, names in WITHHELD.items():
        lines += [f"* {_DOORS[door]}, `{name}`: {why}.\n" for name, why in names.items()]
    return "".join(lines)


_DOORS: dict[Door, str] = {"fields": "adapters' fields", "http": "HTTP", "cli": "command line"}
_HEAD = """# Options

<!-- Written by `python -m ig_plugins.guard.options_table docs/options.md`; a test fails when it is stale. -->

Each is a keyword of `generate`, `stream`, `agenerate`, `astream`, `with_options`, `request` and `from_pretrained`; a
field of the LangChain and LlamaIndex classes, and a keyword of their calls; a key of the HTTP request; and an option of
`inferenceguard generate`, `trace`, `serve` and `evaluate` (`--max-tokens`; `trace` has no `--on-block`, `evaluate` no
`--stop`, `--raw-prompt`, `--on-block` and `--refusal`, and its own `--candidates` and `--seeds`). A preset may have
other defaults (`inferenceguard presets`). Over HTTP a `budget` is a limit, and may be stricter than the service's own,
never looser.

mypy and pyright know them: a misspelt name or a wrong value is an error before anything runs. With pydantic's mypy
plugin that needs its `init_typed = true` for the values of fields. The frameworks' own calls (`llm.invoke(...)`) take
any keyword as far as type checkers can see, and refuse unknown ones when they run.

| option | type | default | what it is | not in |
|---|---|---|---|---|
"""


def _told(kind: Any) -> str:
    """A type as people write it, without None."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) in (list, tuple, dict) or getattr(kind, "__module__", "") == "collections.abc":
        inner = ", ".join("..." if each is ... else _told(each) for each in get_args(kind))
        return f"{kind.__origin__.__name__}[{inner}]"
    if parts := get_args(kind):
        return " or ".join(_told(each) for each in parts if each is not type(None))
    return getattr(kind, "__name__", str(kind).removeprefix("typing."))


def _absent(name: str) -> str:
    return ", ".join(_DOORS[door] for door, names in WITHHELD.items() if name in names)


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    import sys
    from pathlib import Path

    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/options.md").write_text(table(), encoding="utf-8")
