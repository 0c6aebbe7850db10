"""What Prometheus is told: figures and names that the operator chose, no text, no client.

Blocked is what the method calls abstaining: the search ran to its end and nothing that it found may leave. Failed is an
answer that was refused for another reason, such as a judge that raised: then nothing leaves either.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector

from ig_plugins.guard import GuardResult
from ig_plugins.observing import End, Kind
from ig_plugins.server.gate import Gate

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120)
JUDGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
OTHER = "other"  # paths that nobody serves: a client must not be able to make a series of its own


class Metrics:
    """The series of one service.

    Args:
        gate: Whose queue and memory are told.
        paths: The endpoints' paths.
    """

    def __init__(self, gate: Gate, *, paths: Iterable[str]) -> None:
        self._gate, self._paths = gate, set(paths)
        self._registry = CollectorRegistry()
        self._registry.register(self)  # it has collect(), which is all that is needed
        ProcessCollector(registry=self._registry)
        self._requests = self._counter("requests", "HTTP requests.", "path", "status")
        self._request_seconds = self._histogram("request_seconds", "From a request's head to its end.", SECONDS, "path")
        self._answers = self._counter("answers", "Answers: answered, blocked, failed.", "model", "outcome", "reason")
        self._answer_seconds = self._histogram("answer_seconds", "Of an answer.", SECONDS, "model")
        self._first = self._histogram(
            "first_text_seconds", "Until the first verified text could leave.", SECONDS, "model"
        )
        self._blocks = self._counter("blocks", "Blocks of answers that were released.", "model")
        self._tries = self._counter("tries", "How often these blocks were sampled.", "model")
        self._tokens = self._counter("tokens", "Tokens: prompt, sampled in all lanes, released.", "model", "kind")
        self._judge_calls = self._counter("judge_calls", "Calls of judges.", "judge", "outcome")
        self._judge_seconds = self._histogram("judge_seconds", "Of a call of a judge.", JUDGE_SECONDS, "judge")
        self._block_seconds = self._histogram("block_seconds", "Of a block of all requests in it.", SECONDS)
        self._failed_tries = self._counter("failed_tries", "Tries without a safe candidate, of blocked answers too.")
        self.observer = _Watching(self._judge_calls, self._judge_seconds, self._block_seconds, self._failed_tries)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)

    def requested(self, path: str, status: int, seconds: float) -> None:
        """An HTTP request has ended."""
        path = path if path in self._paths else OTHER
        self._requests.labels(path, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def answered(self, model: str, result: GuardResult) -> None:
        """An answer has been found, or it is known that there is none."""
        outcome = "blocked" if result.blocked else "answered"
        self._answers.labels(model, outcome, result.finish_reason).inc()
        self._answer_seconds.labels(model).observe(result.seconds)
        first = result.first_text_seconds
        self._first.labels(model).observe(result.seconds if first is None else first)
        self._blocks.labels(model).inc(len(result.blocks))
        self._tries.labels(model).inc(sum(block.tries for block in result.blocks))
        usage = result.usage
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("sampled", usage.candidate_tokens),
            ("released", usage.completion_tokens),
        ):
            self._tokens.labels(model, kind).inc(count)

    def failed(self, model: str, error: Exception) -> None:
        """An answer was given up."""
        self._answers.labels(model, "failed", type(error).__name__).inc()

    def collect(self) -> Iterable[Metric]:
        """What is so now."""
        for name, words, value in (
            ("running", "Requests that are decoded.", self._gate.running),
            ("queued", "Requests that wait.", self._gate.queued),
            ("memory_admitted_bytes", "What running requests may take, by estimate.", self._gate.taken),
            ("memory_allowed_bytes", "What all of them may take.", self._gate.memory),
        ):
            yield GaugeMetricFamily(f"inferenceguard_{name}", words, value=value)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"inferenceguard_{name}", words, labels, registry=self._registry)

    def _histogram(self, name: str, words: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"inferenceguard_{name}", words, labels, buckets=buckets, registry=self._registry)


class _Watching:
    """Calls of judges, blocks and tries, wherever they happen in this process."""

    def __init__(self, calls: Counter, seconds: Histogram, blocks: Histogram, tries: Counter) -> None:
        self._calls, self._seconds, self._blocks, self._tries = calls, seconds, blocks, tries

    def begin(self, kind: Kind, name: str, *, of: Sequence[object], texts: int) -> End:
        """See `Observer`."""
        started = time.perf_counter()

        def end(error: BaseException | None = None, **figures: Any) -> None:
            seconds = time.perf_counter() - started
            if kind == "judge":
                self._calls.labels(name, "ok" if error is None else type(error).__name__).inc()
                self._seconds.labels(name).observe(seconds)
            elif kind == "block":
                self._blocks.observe(seconds)
            else:
                self._tries.inc(figures.get("failed_tries", 0))

        return end
