"""What the server costs over the library, and what metrics cost: CPU seconds of an answer, 16 callers at once.

    python examples/measure_server.py --answers 160 --rounds 3

CPU seconds of the process that decodes, since those do not depend on what else runs on the machine. Rounds are
interleaved and the medians printed.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time

import httpx

CALLERS = 16
MESSAGES = [{"role": "user", "content": "How do I clean the kettle?"}]


def cpu(process: int) -> float:
    """CPU seconds of all threads of a process so far."""
    with open(f"/proc/{process}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load():
    from ig_plugins import InferenceGuard

    guard = InferenceGuard.from_pretrained("tiny-beaver", max_tokens=64)
    guard.generate("Hello?")
    return guard


async def together(ask, answers: int) -> None:
    """Answers, so many callers at once."""
    todo = iter(range(answers))

    async def caller() -> None:
        for number in todo:
            await ask(number)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


def library(answers: int) -> None:
    guard = load()
    run = lambda: asyncio.run(together(lambda seed: guard.agenerate(MESSAGES, seed=seed), answers))  # noqa: E731
    run()
    before, started = cpu(os.getpid()), time.perf_counter()
    run()
    print(json.dumps({"cpu": cpu(os.getpid()) - before, "seconds": time.perf_counter() - started}))


def serve(metrics: bool) -> None:
    from ig_plugins.server import Limits, create_app, listen
    from ig_plugins.server import serve as run

    limits, bound = Limits(), listen("127.0.0.1", 0)
    app = create_app(load(), limits=limits, metrics=metrics)
    print(bound.getsockname()[1], flush=True)
    run(app, limits=limits, bound=bound, say=lambda text: None)


def served(answers: int, metrics: bool) -> dict[str, float]:
    kind = "serve-metrics" if metrics else "serve"
    child = subprocess.Popen([sys.executable, __file__, "--as", kind], stdout=subprocess.PIPE, text=True)

    async def run() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:

            async def ask(seed: int) -> None:
                answer = await client.post("/v1/chat/completions", json={"messages": MESSAGES, "seed": seed})
                answer.raise_for_status()

            await together(ask, answers)

    try:
        url = f"http://127.0.0.1:{int(child.stdout.readline())}"
        asyncio.run(run())
        before, started = cpu(child.pid), time.perf_counter()
        asyncio.run(run())
        return {"cpu": cpu(child.pid) - before, "seconds": time.perf_counter() - started}
    finally:
        child.terminate()
        child.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--as", dest="kind", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.kind:
        library(given.answers) if given.kind == "library" else serve(given.kind == "serve-metrics")
        return
    found: dict[str, list[dict[str, float]]] = {"library": [], "server": [], "server with metrics": []}
    for _ in range(given.rounds):
        own = [sys.executable, __file__, "--as", "library", "--answers", str(given.answers)]
        found["library"].append(json.loads(subprocess.run(own, capture_output=True, text=True, check=True).stdout))
        found["server"].append(served(given.answers, False))
        found["server with metrics"].append(served(given.answers, True))
    base = statistics.median(each["cpu"] for each in found["library"])
    for name, runs in found.items():
        spent = statistics.median(each["cpu"] for each in runs)
        rate = statistics.median(given.answers / each["seconds"] for each in runs)
        each = [round(1000 * run["cpu"] / given.answers, 1) for run in runs]
        print(
            f"{name:20} {1000 * spent / given.answers:7.1f} ms of CPU an answer ({spent / base - 1:+.1%})  "
            f"{rate:5.1f} answers/s  rounds {each}"
        )


if __name__ == "__main__":
    main()
