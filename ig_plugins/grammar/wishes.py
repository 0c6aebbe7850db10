"""OpenAI's ``response_format`` in our words."""

from collections.abc import Mapping
from typing import Any

from ig_plugins.errors import ConfigurationError


def json_schema_of(response_format: Mapping[str, Any]) -> dict[str, Any] | None:
    """The ``json_schema`` that a ``response_format`` asks for; None for plain text.

    Args:
        response_format: ``{"type": "json_schema", "json_schema": {"schema": ...}}``, ``{"type": "json_object"}`` or
            ``{"type": "text"}``.

    Raises:
        ConfigurationError: It is none of these.
    """
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    inner = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
        raise ConfigurationError(
            f"response_format has type {kind!r}; give "
            '{"type": "json_schema", "json_schema": {"schema": {...}}}, {"type": "json_object"} or {"type": "text"}'
        )
    return dict(inner["schema"])
