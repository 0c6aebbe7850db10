"""OpenTelemetry spans over searches, blocks and calls of judges; figures and names, never texts.

Only the API is needed: where spans go is what the process has set up, and without that they go nowhere. A request's
span belongs to the span in which it was asked. A block is decoded for several requests at once: it belongs to a request
that has it for itself, and else is linked to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Token
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ig_plugins.errors import ConfigurationError
from ig_plugins.observing import End, Kind, watch

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider

NAME = "inferenceguard"


def start(provider: TracerProvider | None = None) -> Callable[[], None]:
    """Makes spans of everything that guards do in this process from now on.

    Args:
        provider: Where they go; by default the process's own.

    Returns:
        What ends that.

    Raises:
        ConfigurationError: opentelemetry-api is missing.
    """
    return watch(_Spans(tracer(provider)))


def tracer(provider: TracerProvider | None = None) -> Tracer:
    """Our tracer; errors as in `start`."""
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise ConfigurationError("opentelemetry-api is missing; pip install 'inferenceguard[metrics]'") from error
    return trace.get_tracer(NAME, tracer_provider=provider)


class _Spans:
    def __init__(self, made_by: Tracer) -> None:
        self._tracer = made_by
        self._searches: WeakKeyDictionary[Any, Span] = WeakKeyDictionary()

    def begin(self, kind: Kind, name: str, *, of: Sequence[object], texts: int) -> End:
        """See `Observer`."""
        if kind == "block":
            return self._block([span for each in of if (span := self._searches.get(each)) is not None], len(of))
        if kind == "judge":
            asked: dict[str, str | int] = {f"{NAME}.judge": name, f"{NAME}.texts": texts}
            return _ending(self._tracer.start_span(f"{NAME}.judge", attributes=asked))
        span = self._tracer.start_span(f"{NAME}.search")
        for each in of:
            self._searches[each] = span
        return _ending(span)

    def _block(self, searches: list[Span], requests: int) -> End:
        from opentelemetry import context, trace

        parent: Context = trace.set_span_in_context(searches[0]) if len(searches) == 1 else context.Context()
        links = [trace.Link(span.get_span_context()) for span in searches] if len(searches) > 1 else None
        told = {f"{NAME}.requests": requests}
        span = self._tracer.start_span(f"{NAME}.block", context=parent, links=links, attributes=told)
        return _ending(span, context.attach(trace.set_span_in_context(span)))


def _ending(span: Span, token: Token[Any] | None = None) -> End:
    def end(error: BaseException | None = None, **figures: Any) -> None:
        from opentelemetry import context, trace

        if token is not None:
            context.detach(token)
        if error is not None:  # its message may quote what was asked
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
        for key, value in figures.items():
            if value is not None:
                span.set_attribute(f"{NAME}.{key}", value)
        span.end()

    return end
