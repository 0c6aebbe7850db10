"""A long day of a server in short: thousands of requests, some aborted, some bad, and two judges that fail at random.

    make soak        # or python examples/soak_server.py --requests 20000

Starts a server of its own on a miniature, asks it, and looks at three things. No text leaves that a judge would not
have passed: one judge forbids a word that the policy likes. Memory stays where it was after the first tenth. When all
is over no thread and no descriptor is left beyond those of the start. All are counted over the server's process and
the one that accepts its connections. Ends with code 1 where one of the three does not hold.
"""

import argparse
import asyncio
import collections
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import httpx

WORD = "first"  # half of the answers of the unguarded miniature have it
FAILING = 0.1  # of the calls of each of two judges
BAD = (
    {"candidates": 10**6},
    {"messages": []},
    {"messages": [{"role": "wizard", "content": "x"}]},
    {"candidats": 3},
    {"model": "nobody"},
    {"budget": 1e9},
    {"logprobs": True},
    {"messages": [{"role": "user", "content": "long " * 20_000}]},
)
TOPICS = ("the kettle", "a lorry", "the garden", "an old door", "my bicycle", "the stove")


def serve() -> None:
    """The server's process: prints its port."""
    from ig_plugins import InferenceGuard
    from ig_plugins.server import Limits, create_app, listen
    from ig_plugins.server import serve as run

    luck = random.Random(0)

    def word(prompts: list[str], responses: list[str]) -> list[float]:
        if luck.random() < FAILING:
            raise RuntimeError("out of luck")
        return [1.0 if WORD in response.lower() else -1.0 for response in responses]

    def nan(prompts: list[str], responses: list[str]) -> list[float]:
        return [float("nan") if luck.random() < FAILING / max(len(responses), 1) else -1.0 for _ in responses]

    guard = InferenceGuard.from_pretrained(
        "tiny-beaver", cost_model=["tiny-beaver", word, nan], candidates=4, beams=2, max_tokens=8, critic=False
    )
    guard.generate("Hello?", return_exceptions=True)
    limits = Limits(queued=200)
    bound = listen("127.0.0.1", 0)
    print(bound.getsockname()[1], flush=True)
    run(create_app(guard, limits=limits), limits=limits, bound=bound, say=lambda text: None)


def state(process: int) -> tuple[float, int, int]:
    """A process's memory in MiB, its threads and its descriptors, those of its children included."""
    memory, threads, files = 0.0, 0, 0
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for each in (process, *children):
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{each}/status").read_text().splitlines())
        memory += int(lines["VmRSS"].split()[0]) / 1024
        threads += int(lines["Threads"])
        files += len(list(Path(f"/proc/{each}/fd").iterdir()))
    return memory, threads, files


async def ask(client: httpx.AsyncClient, number: int, seen: collections.Counter) -> None:
    """One request, as its number has it."""
    luck = random.Random(number)
    body = {
        "messages": [{"role": "user", "content": f"What do I do with {luck.choice(TOPICS)}?"}],
        "seed": number,
        "stream": number % 2 == 0,
    }
    fate = luck.random()
    if fate < 0.05:
        body |= luck.choice(BAD)
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if 0.05 <= fate < 0.10:
                await asyncio.sleep(luck.random() * 0.2)
                seen["aborted"] += 1
                return
            told = (await answer.aread()).decode()
    except httpx.HTTPError as error:
        seen[type(error).__name__] += 1
        return
    failed = '"error"' in told
    seen[f"{answer.status_code}{' with an error' if failed and answer.status_code == 200 else ''}"] += 1
    if any(WORD in text.lower() for text in texts(told, bool(body["stream"]) and answer.status_code == 200)):
        seen["UNJUDGED"] += 1


def texts(told: str, stream: bool) -> list[str]:
    """What was said, of a stream put together."""
    if not stream:
        return [c["message"]["content"] or "" for c in json.loads(told).get("choices", ())]
    events = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {")]
    return ["".join(c["delta"].get("content") or "" for e in events for c in e.get("choices", ()))]


async def soak(port: int, process: int, requests: int, at_once: int) -> bool:
    """Asks, and says what was found."""
    seen: collections.Counter = collections.Counter()
    limits = httpx.Limits(max_connections=at_once)
    for size in (1, 20_000):  # both threads that read bodies are there
        body = {"messages": [{"role": "user", "content": "word " * size}]}
        httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=300)
    await asyncio.sleep(1)
    before = state(process)
    early = None
    started, todo = time.monotonic(), iter(range(requests))

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=300, limits=limits) as client:

        async def work() -> None:
            nonlocal early
            for number in todo:
                await ask(client, number, seen)
                if number == requests // 10:
                    early = state(process)
                if number % 1000 == 0:
                    rss, threads, files = state(process)
                    print(
                        f"{number:6}  {rss:6.0f} MiB  {threads} threads  {files} descriptors  {dict(seen)}", flush=True
                    )

        await asyncio.gather(*(work() for _ in range(at_once)))
    for _ in range(60):
        after = state(process)
        if after[1] <= before[1] and after[2] <= before[2]:
            break
        await asyncio.sleep(0.5)
    early = early or before
    growth = (after[0] - early[0]) / early[0]
    print(f"{requests} requests in {time.monotonic() - started:.0f} s: {dict(sorted(seen.items()))}")
    print(f"memory {early[0]:.0f} MiB after a tenth, {after[0]:.0f} at the end: {growth:+.1%}")
    print(f"threads {before[1]} -> {after[1]}, descriptors {before[2]} -> {after[2]}")
    holds = not seen["UNJUDGED"] and growth < 0.05 and after[1] <= before[1] and after[2] <= before[2]
    print("holds" if holds else "DOES NOT HOLD", flush=True)
    return holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
        return
    child = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        port = int(child.stdout.readline())
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health")
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        good = asyncio.run(soak(port, child.pid, given.requests, given.at_once))
    finally:
        child.terminate()
        child.wait(60)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
