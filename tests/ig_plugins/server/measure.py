"""What metrics cost: the very calls that one request makes of them, replayed, over the processor time of its answer.

    python -m tests.ig_plugins.server.measure [MODEL]

Everything that metrics are told while a request is answered is written down, and told again many times to metrics of
their own. Counting so finds microseconds where the answer itself takes milliseconds that no two rounds agree on.
"""

import asyncio
import statistics
import sys
import time

import httpx

from ig_plugins import InferenceGuard
from ig_plugins.observing import begin, watch
from ig_plugins.server import create_app
from ig_plugins.server.gate import Gate
from ig_plugins.server.metrics import Metrics

ASK = {"messages": [{"role": "user", "content": "How do I clean the kettle?"}], "seed": 1}
ROUNDS = 2000


class Written:
    """An observer that writes down what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, kind, name, *, of, texts):
        def end(error=None, **figures):
            self.told.append((kind, name, error, figures))

        return end


def main():
    """Prints both, and their quotient."""
    guard = InferenceGuard.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else "tiny-beaver")
    app = create_app(guard, metrics=False)
    written, took = Written(), []

    async def ask():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here", timeout=600) as client:
            for _ in range(9):
                written.told.clear()
                started = time.process_time()
                assert (await client.post("/v1/chat/completions", json=ASK)).status_code == 200
                took.append(time.process_time() - started)

    stop = watch(written)
    asyncio.run(ask())
    stop()
    told, result = list(written.told), guard.generate(ASK["messages"], seed=1)
    metrics = Metrics(Gate(running=1, queued=1, memory=1), paths=["/v1/chat/completions"])
    watch(metrics.observer)
    started = time.process_time()
    for _ in range(ROUNDS):
        for kind, name, error, figures in told:
            begin(kind, name, of=(result,), texts=1)(error, **figures)
        metrics.answered("small", result)
        metrics.requested("/v1/chat/completions", 200, 0.1)
    cost = (time.process_time() - started) / ROUNDS
    answer = statistics.median(took)
    kinds = ", ".join(f"{sum(each[0] == kind for each in told)} {kind}" for kind in ("search", "block", "judge"))
    sys.stdout.write(f"told of {kinds}: {1e6 * cost:.0f} us a request of {1e3 * answer:.1f} ms, {cost / answer:.2%}\n")


if __name__ == "__main__":
    main()
