"""From a document to one HTML file that needs no other: what runs in it is named by its hash, and nothing else may run.

Texts of models and users never become markup: they travel as JSON, and the scripts set them as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from pydantic import BaseModel

from ig_plugins.page.document import Document

STYLES = ("page.css",)
SCRIPTS = ("dom.js", "words.js", "answers.js", "budget.js", "lanes.js", "map.js", "blocks.js", "view.js")


class Slider(BaseModel):
    """A setting that a visitor may choose.

    Attributes:
        name: Of the option.
        label: For people.
        least, most, step, value: Of the slider.
    """

    name: str
    label: str
    least: float
    most: float
    step: float
    value: float


class Offer(BaseModel):
    """A model that is served, and what a visitor may choose about it."""

    model: str
    sliders: tuple[Slider, ...]


class Playground(BaseModel):
    """What the page is told that asks a server.

    Attributes:
        ask: Where requests go.
        keyed: Whether they need a key.
        offers: What is served.
    """

    ask: str
    keyed: bool
    offers: tuple[Offer, ...]


class Page(NamedTuple):
    """A page, and the policy that it states, for a server's header."""

    html: str
    policy: str


def page(document: Document) -> str:
    """The page of one answer."""
    title = document.result.trace.prompt if document.result.trace else ""
    return _filled(f"How this was answered: {title[:80]}", document, "document", scripts=SCRIPTS).html


def playground(settings: Playground) -> Page:
    """The page that asks a server and shows its answers."""
    return _filled("InferenceGuard playground", settings, "playground", scripts=(*SCRIPTS, "playground.js"), asks=True)


def _filled(title: str, data: BaseModel, name: str, *, scripts: Sequence[str], asks: bool = False) -> Page:
    style, script = _assets(STYLES), _assets(scripts)
    rules = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if asks else []),
    ]
    policy = "; ".join(rules)
    parts = {
        "policy": html.escape(policy, quote=True),
        "title": html.escape(title),
        "style": style,
        "script": script,
        "name": name,
        "data": embedded(json.loads(data.model_dump_json())),  # which writes null for an infinite number
    }
    return Page(_template().format_map(parts), policy)


def embedded(value: Any) -> str:
    """JSON that can stand in a script element: no markup, and no line end that JavaScript knows and JSON does not."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _template() -> str:
    return _read("page.html")


def _assets(names: Sequence[str]) -> str:
    return "\n" + "\n".join(_read(name) for name in names)


def _read(name: str) -> str:
    return files("ig_plugins.page").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
