"""The examples for Ray, on a real local Ray: ``pip install "ray[serve,data]"``, then ``pytest -m slow tests/scale``."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

ray = pytest.importorskip("ray", reason="ray is not installed")

from ray import serve  # noqa: E402
from ray.serve.config import RequestRouterConfig  # noqa: E402
from ray.serve.request_router import PendingRequest  # noqa: E402

from critic_models.bundled import world  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples" / "scale"
sys.path.insert(0, str(EXAMPLES))

import ray_data  # noqa: E402
import ray_serve  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def cluster():
    ray.init(num_cpus=3, log_to_driver=False, include_dashboard=False)
    yield
    serve.shutdown()
    ray.shutdown()


def prompts(count):
    texts = world.prompts("test", "benign")[: count // 2] + world.prompts("test", "sensitive")[: count - count // 2]
    return [{"id": str(number), "prompt": text} for number, text in enumerate(texts)]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(folder, name, *options):
    command = [sys.executable, str(EXAMPLES / "ray_data.py"), "prompts.jsonl", f"{name}.jsonl", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answers(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["text"], row["blocked"]) for row in rows}  # costs differ in their last digits


def workers():
    found = subprocess.run(["pgrep", "-f", "ray::MapWorker"], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in found.split()]


def test_answers_do_not_depend_on_the_partition_nor_on_a_worker_that_dies(tmp_path):
    rows = prompts(40)
    written(tmp_path / "prompts.jsonl", rows)
    assert start(tmp_path, "one", "--workers", "1", "--batch", "16").wait() == 0
    while workers():  # those of the first run end a little after it, and must not be the one that is killed
        time.sleep(0.2)
    run = start(tmp_path, "two", "--workers", "2", "--batch", "5")
    while not (alive := workers()):
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.2)
    time.sleep(2)
    os.kill(alive[0], signal.SIGKILL)
    run.communicate()
    one, two = answers(tmp_path / "one.jsonl"), answers(tmp_path / "two.jsonl")
    assert set(one) == {row["id"] for row in rows}
    assert one == two


def test_a_run_that_was_stopped_goes_on_with_what_has_no_answer(tmp_path):
    rows = prompts(4)
    written(tmp_path / "prompts.jsonl", rows)
    done = tmp_path / "answers.jsonl"
    done.write_text(json.dumps({"id": "1", "text": "..."}) + '\n{"id": "2", "te')
    assert [row["id"] for row in ray_data.unanswered(tmp_path / "prompts.jsonl", done)] == ["0", "2", "3"]
    assert done.read_text().endswith("}\n")


def test_replicas_answer_alike_and_stream(cluster):
    import httpx

    def ask(row):
        body = {"model": "tiny-alpaca", "seed": 5, "messages": [{"role": "user", "content": row["prompt"]}]}
        reply = httpx.post("http://127.0.0.1:8000/v1/chat/completions", json=body, timeout=300).json()
        return reply["choices"][0]["message"]

    found = []
    for replicas in (1, 2):
        ray_serve.start("tiny-alpaca", replicas=replicas)
        with ThreadPoolExecutor(8) as pool:
            found.append(list(pool.map(ask, prompts(8))))
        assert httpx.get("http://127.0.0.1:8000/health").json() == {"status": "ok"}
        serve.delete("inferenceguard")
    assert found[0] == found[1]


class Waiting:
    """A replica that says who it is when it is let go."""

    def __init__(self):
        self.me = os.getpid()

    async def __call__(self, seconds):
        import asyncio

        await asyncio.sleep(seconds)
        return self.me


@pytest.fixture
def router():
    found = object.__new__(ray_serve.FewestRequests)  # what Ray's own constructor prepares is not asked here
    found.initialize_state()
    return found


REPLICAS = [SimpleNamespace(replica_id=name) for name in "ab"]


def request(name):
    return PendingRequest(args=[], kwargs={}, metadata=SimpleNamespace(internal_request_id=name))


async def chosen(router, pending, replicas=REPLICAS):
    ranks = await router.choose_replicas(replicas, pending)
    assert sorted(each.replica_id for [each] in ranks) == sorted(each.replica_id for each in replicas)
    return ranks[0][0].replica_id


async def test_requests_that_come_together_are_spread_evenly(router):
    come = [request(str(number)) for number in range(16)]
    assert Counter([await chosen(router, each) for each in come]) == {"a": 8, "b": 8}


async def test_a_request_follows_one_that_has_ended(router):
    came = [request(str(number)) for number in range(4)]
    went = [await chosen(router, each) for each in came]
    for each, replica in zip(came, went, strict=True):
        router.on_request_routed(each, replica, None)
    for each, replica in zip(came, went, strict=True):
        if replica == "b":
            router.on_request_completed("b", each.metadata.internal_request_id)
    del came, each  # once taken, they count without the object
    later = [request("4"), request("5")]
    assert [await chosen(router, each) for each in later] == ["b", "b"]


async def test_requests_that_no_replica_took_do_not_count(router):
    cancelled, kept = request("0"), request("1")
    first = await chosen(router, cancelled)
    assert await chosen(router, kept) != first
    cancelled.future.cancel()
    await chosen(router, request("2"))  # nobody holds it: as one that was cancelled when its replica had been chosen
    last = request("3")
    assert await chosen(router, last) == first
    assert {*router._sent} == {each.metadata.internal_request_id for each in (kept, last)}


async def test_a_request_that_a_replica_refused_counts_where_it_is_sent_next(router):
    again, other = request("0"), request("1")
    first = await chosen(router, again)
    second = await chosen(router, again, [each for each in REPLICAS if each.replica_id != first])
    router.on_request_completed(first, "0")  # of the first try, late
    assert await chosen(router, other) == first
    router.on_request_routed(again, second, None)
    router.on_request_completed(second, "0")
    router.on_request_completed(first, "1")
    router.on_request_routed(other, first, None)  # its end was told before
    assert not router._sent


class Seen(ray_serve.FewestRequests):
    def initialize_state(self, **options):
        super().initialize_state(**options)
        __import__("routers_of_this_test").found.append(self)  # Ray pickles the class by value


def test_ray_tells_the_router_of_every_request(cluster, monkeypatch):
    routers = SimpleNamespace(found=[])
    monkeypatch.setitem(sys.modules, "routers_of_this_test", routers)
    waiting = serve.deployment(
        Waiting, num_replicas=2, max_ongoing_requests=16, ray_actor_options={"num_cpus": 1},
        request_router_config=RequestRouterConfig(request_router_class=Seen),
    )  # fmt: skip
    handle = serve.run(waiting.bind(), name="waiting", route_prefix=None)
    for _ in range(3):
        asked = [handle.remote(1) for _ in range(16)]
        assert sorted(Counter(each.result() for each in asked).values()) == [8, 8]
        assert none_left(routers)
    for each in [handle.remote(60) for _ in range(16)]:
        each.cancel()
    assert none_left(routers)


def none_left(routers):
    """Whether the router comes to know of every end; it hears of one a moment after the caller."""
    [router] = routers.found
    end = time.monotonic() + 20
    while router._sent and time.monotonic() < end:
        time.sleep(0.01)
    return not router._sent
