"""How much more two replicas of Ray Serve answer than one, and whose processor time an answer takes.

``python -m tests.scale.measure MODEL CALLERS ANSWERS TOKENS`` (smollm2-135m 4 12 32) asks one replica with
CALLERS threads and then two with twice as many, twice each. On a machine that others use, look at the processor time:
what two replicas can do at most follows from it: twice what one of them takes for an answer, divided by what replicas,
proxy and callers take for one where there are two, on what Ray's other processes leave of two cores. These poll whether
or not there are answers, so theirs is a share of a core. The callers keep their connections: to open an httpx client
takes 20 ms alone.
"""

import http.client
import json
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import ray
from ray import serve

from examples.scale import ray_serve

PROMPTS = (
    "How do plants make food?", "Name three rivers of Europe.", "Why is the sky blue?", "How do I boil an egg?",
    "What is a budget?", "Tell me about whales.", "How are clouds formed?", "What does a judge do?",
)  # fmt: skip
REST = "the rest of Ray"
LOCAL = threading.local()


def asking(model: str, tokens: int) -> Callable[[int], str]:
    """Asks for answer number so-and-so, over the thread's own connection."""

    def ask(number: int) -> str:
        if not hasattr(LOCAL, "connection"):
            LOCAL.connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=900)
        message = {"role": "user", "content": PROMPTS[number % len(PROMPTS)]}
        body = json.dumps({"model": model, "messages": [message], "seed": number, "max_tokens": tokens})
        LOCAL.connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        reply = LOCAL.connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"status {reply.status}: {content[:300]!r}")
        return str(json.loads(content)["choices"][0]["message"].get("content"))

    return ask


def processor() -> dict[int, tuple[str, float]]:
    """Processor time by process: this one, and those of Ray."""
    found = {}
    for each in psutil.process_iter(["cmdline", "cpu_times"]):
        line = " ".join(each.info["cmdline"] or [])
        if each.pid == psutil.Process().pid:
            name = "callers"
        elif "ServeReplica" in line:
            name = "replicas"
        elif "ProxyActor" in line:
            name = "proxy"
        elif "ray" in line:
            name = REST
        else:
            continue
        times = each.info["cpu_times"]
        found[each.pid] = name, times.user + times.system
    return found


def main() -> None:
    model, callers, answers, tokens = sys.argv[1], *map(int, sys.argv[2:5])
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    said: dict[int, list[str]] = {}
    spent: dict[int, list[Counter[str]]] = {1: [], 2: []}
    idle: list[float] = []
    for replicas in (1, 2, 1, 2):
        ray_serve.start(model, replicas=replicas)
        ask = asking(model, tokens)
        with ThreadPoolExecutor(callers * replicas) as pool:
            list(pool.map(ask, range(callers * replicas)))
            before, started = processor(), time.monotonic()
            said[replicas] = list(pool.map(ask, range(answers * replicas)))
            seconds[replicas].append(time.monotonic() - started)
            each: Counter[str] = Counter()
            for pid, (name, used) in processor().items():
                each[name] += 1000 * (used - before.get(pid, ("", 0.0))[1]) / (answers * replicas)
        idle.append(each.pop(REST, 0.0) * answers * replicas / 1000 / seconds[replicas][-1])
        spent[replicas].append(each)
        shown = ", ".join(f"{name} {ms:.1f}" for name, ms in each.most_common())
        print(f"{replicas}: {seconds[replicas][-1]:.1f} s; ms of processor an answer: {shown}", end="; ")
        print(f"{REST}: {100 * idle[-1]:.1f} % of a core", flush=True)
        serve.delete("inferenceguard")
    one = statistics.mean(each["replicas"] for each in spent[1])
    everything = statistics.mean(sum(each.values()) for each in spent[2])
    times = 2 * statistics.median(seconds[1]) / statistics.median(seconds[2])
    print(f"same answers: {said[1] == said[2][:answers]}; {times:.2f} times as many")
    left = 1 - statistics.median(idle) / 2
    print(f"by processor time, on two cores: at most {left * 2 * one / everything:.2f} times")


if __name__ == "__main__":
    main()
