"""The plugin that keeps hidden states inside vLLM: bounded, for a while, under a key; and nothing where nobody asks."""

import base64
import subprocess
import sys
import types
from argparse import Namespace
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import inferenceguard_vllm
from ig_plugins.engine import Sampler
from ig_plugins.remote import states_vllm
from ig_plugins.remote.calls import Call
from ig_plugins.remote.dialects import DIALECTS
from inferenceguard_vllm import protocol
from inferenceguard_vllm.buffers import StateBuffers
from inferenceguard_vllm.capture import COUNT, FIRST, KEY, Capture
from inferenceguard_vllm.worker import read_states, start_states

H = 4
ROOT = Path(__file__).parents[3]


def decoded(text):
    return np.frombuffer(base64.b64decode(text), dtype="<f4").tolist()


def state(number):
    return torch.full((H,), float(number))


def buffers(**settings):
    return StateBuffers(**{"most_bytes": 2**20, "seconds": 60.0, **settings})


def filled(store, key, states, *, index=0, first=0):
    lane = store.open(key, index, first=first, count=99)
    for position, number in enumerate(states, start=first):
        store.see(key, lane, position, state(number))
    return lane


# What is kept


def test_the_last_state_and_the_sum_of_so_many_tokens():
    store = buffers()
    filled(store, "k", [1, 2, 4], first=7)
    (lane,) = store.read("k", [2])
    assert (lane["tokens"], decoded(lane["last"]), decoded(lane["total"])) == (2, [2.0] * H, [3.0] * H)
    assert store.read("k", [9])[0]["tokens"] == 3
    assert store.read("other", [1]) is None
    assert store.read("k", [1, 1]) is None


def test_prompts_and_what_is_read_again_do_not_count_and_a_gap_breaks_the_lane():
    store = buffers()
    lane = store.open("k", 0, first=5, count=3)
    for position, number in ((2, 9), (4, 9), (5, 1), (6, 2), (5, 9), (6, 9), (7, 4), (8, 9)):
        store.see("k", lane, position, state(number))
    assert decoded(store.read("k", [3])[0]["total"]) == [7.0] * H
    lane = store.open("gap", 0, first=5, count=3)
    store.see("gap", lane, 6, state(1))
    assert store.read("gap", [1])[0]["broken"]


def test_half_precision_is_summed_in_float32():
    store = buffers()
    lane = store.open("k", 0, first=0, count=3)
    for position, number in enumerate((256.0, 1.0, 1.0)):
        store.see("k", lane, position, torch.full((H,), number, dtype=torch.bfloat16))
    assert decoded(store.read("k", [3])[0]["total"]) == [258.0] * H


def test_a_full_buffer_drops_what_was_read_then_what_is_oldest():
    store = buffers(most_bytes=3 * 2 * H * 4)
    for key in "abc":
        filled(store, key, [1, 2])
    assert store.read("b", [2])
    filled(store, "d", [1, 2])
    assert store.read("b", [2]) is None
    filled(store, "e", [1, 2])
    assert store.read("a", [2]) is None
    assert all(store.read(key, [2]) for key in "cde")
    assert store.bytes <= 3 * 2 * H * 4
    assert store.lanes == 3


def test_one_request_that_is_too_large_has_no_states_and_harms_nobody_later():
    store = buffers(most_bytes=2 * H * 4)
    filled(store, "k", [1, 2, 3, 4])
    assert store.read("k", [4]) is None
    assert (store.bytes, store.lanes) == (0, 0)
    filled(store, "l", [1])
    assert store.read("l", [1])


def test_many_empty_lanes_are_bounded_too(monkeypatch):
    monkeypatch.setattr("inferenceguard_vllm.buffers.MOST_LANES", 10)
    store = buffers()
    for number in range(100):
        store.open(f"k{number}", 0, first=0, count=9)
    assert store.lanes <= 10


def test_states_expire():
    now = [0.0]
    store = buffers(seconds=5.0, clock=lambda: now[0])
    filled(store, "k", [1])
    now[0] = 4.0
    assert store.read("k", [1])
    now[0] = 6.0
    assert store.read("k", [1]) is None
    assert (store.bytes, store.lanes) == (0, 0)


def test_a_request_that_is_sent_again_begins_anew():
    store = buffers()
    old = filled(store, "k", [1, 2])
    filled(store, "k", [5])
    store.see("k", old, 2, state(9))
    assert decoded(store.read("k", [3])[0]["total"]) == [5.0] * H
    assert store.bytes == H * 4


# Where it is taken


class Runner:
    """What the plugin reads of a model runner, in the form of vLLM's first or second one."""

    def __init__(self, *, second):
        self.second, self.execute_model_state, self.input_batch = second, None, None
        self.pcp_manager = None
        self.drafts = 0
        self.model_config = SimpleNamespace(get_hidden_size=lambda: H)

    def execute_model(self, step, intermediate=None, dummy_run=False):
        names = list(step.num_scheduled_tokens)
        if not names:
            self.execute_model_state = None
            return "nothing to do"
        ends = np.cumsum([0, *(step.num_scheduled_tokens[name] for name in names)])
        flat = torch.zeros(int(ends[-1]) + 3, H)  # padded
        for row, name in enumerate(names):
            flat[int(ends[row + 1]) - 1] = step.truth[name]
        if self.second:
            batch = SimpleNamespace(
                req_ids=names, num_reqs=len(names), query_start_loc_np=ends, num_draft_tokens=self.drafts
            )
            self.execute_model_state = SimpleNamespace(input_batch=batch, hidden_states=flat)
        else:
            self.input_batch = SimpleNamespace(req_ids=names)
            self.execute_model_state = SimpleNamespace(
                sample_hidden_states=flat[torch.from_numpy(ends[1:] - 1)],
                spec_decode_metadata=object() if self.drafts else None,
            )
        return None


def step(*, new=(), cached=(), finished=()):
    """A scheduler's step.

    Args:
        new: (sequence, extra_args, tokens computed, tokens now, number in its state).
        cached: (sequence, tokens computed, tokens now, number).
        finished: Sequences.
    """
    fresh = [
        SimpleNamespace(req_id=name, sampling_params=SimpleNamespace(extra_args=asked), num_computed_tokens=before)
        for name, asked, before, _, _ in new
    ]
    both = [(name, now, number) for name, _, _, now, number in new] + [(n, now, number) for n, _, now, number in cached]
    return SimpleNamespace(
        scheduled_new_reqs=fresh,
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=[each[0] for each in cached], num_computed_tokens=[each[1] for each in cached]
        ),
        num_scheduled_tokens={name: now for name, now, _ in both},
        finished_req_ids=set(finished),
        truth={name: number for name, _, number in both},
    )


def asked(key="k", first=6, count=4):
    return {KEY: key, FIRST: first, COUNT: count}


@pytest.fixture(params=[False, True], ids=["first", "second"])
def runner(request):
    found = Runner(second=request.param)
    found.capture = Capture(found, buffers())
    found.capture.start()
    return found


def test_each_sequence_of_a_request_has_its_own_states(runner):
    """A prompt of six tokens in two chunks, beside one that asks for nothing; two children under one key."""
    store = runner.capture.buffers
    new = [("0_r", asked(), 0, 4, 1), ("x", None, 0, 3, 99), ("1_r", asked(), 4, 2, 2)]
    runner.execute_model(step(new=new), None)
    runner.execute_model(step(cached=[("x", 3, 1, 99), ("0_r", 4, 2, 3), ("1_r", 6, 1, 10)]), None)
    runner.execute_model(step(cached=[("1_r", 7, 1, 20), ("0_r", 6, 1, 5)], finished=["x"]), None)
    runner.execute_model(step(cached=[("0_r", 7, 1, 6)], finished=["1_r"]), None)
    first, second = store.read("k", [4, 4])
    assert (first["tokens"], decoded(first["last"]), decoded(first["total"])) == (2, [6.0] * H, [11.0] * H)
    assert (second["tokens"], decoded(second["last"]), decoded(second["total"])) == (2, [20.0] * H, [30.0] * H)


def test_the_last_token_of_a_prompt(runner):
    runner.execute_model(step(new=[("r", asked(first=5, count=1), 0, 6, 7)]), None)
    assert decoded(runner.capture.buffers.read("k", [1])[0]["last"]) == [7.0] * H


def test_a_sequence_that_was_put_off_and_read_again_goes_on(runner):
    """vLLM's second runner calls it a new one then."""
    runner.execute_model(step(new=[("r", asked(), 0, 6, 1)]), None)
    runner.execute_model(step(cached=[("r", 6, 1, 2)]), None)
    runner.execute_model(step(), None)
    runner.execute_model(step(new=[("r", asked(), 0, 8, 3)]), None)
    assert decoded(runner.capture.buffers.read("k", [2])[0]["total"]) == [5.0] * H


def test_more_tokens_than_asked_for_are_not_kept(runner):
    runner.execute_model(step(new=[("r", asked(count=1), 0, 6, 1)]), None)
    for at in range(3):
        runner.execute_model(step(cached=[("r", 6 + at, 1, at + 1)]), None)
    assert decoded(runner.capture.buffers.read("k", [3])[0]["total"]) == [1.0] * H


def test_drafts_break_the_lane(runner):
    runner.drafts = 2
    runner.execute_model(step(new=[("r", asked(), 0, 6, 1)]), None)
    assert "speculative" in runner.capture.buffers.read("k", [1])[0]["broken"]


def test_split_prompts_break_the_lane_of_the_second_runner():
    found = Runner(second=True)
    found.pcp_manager = object()
    capture = Capture(found, buffers())
    capture.start()
    found.execute_model(step(new=[("r", asked(), 0, 6, 1)]), None)
    assert "context parallelism" in capture.buffers.read("k", [1])[0]["broken"]


def test_what_goes_wrong_costs_vllm_nothing(runner, monkeypatch):
    runner.execute_model(step(new=[("r", asked(), 0, 6, 1)]), None)
    broken = step(cached=[("r", 6, 1, 2)])
    del broken.scheduled_cached_reqs
    assert runner.execute_model(broken, None) is None
    assert "failed" in runner.capture.buffers.read("k", [1])[0]["broken"]
    assert runner.execute_model(step(), None) == "nothing to do"


@pytest.mark.parametrize("given", [None, {}, {KEY: "k"}, {**asked(), FIRST: "6"}, {**asked(), COUNT: True}, {KEY: 3}])
def test_requests_that_ask_for_nothing_are_left_alone(runner, given):
    runner.execute_model(step(new=[("r", given, 0, 6, 1)]), None)
    assert runner.capture.buffers.lanes == 0


def test_dummy_runs_are_left_alone(runner):
    runner.execute_model(step(new=[("r", asked(), 0, 6, 1)]), None, dummy_run=True)
    assert runner.capture.buffers.lanes == 0


# The HTTP side


class Engine:
    """Two workers behind vLLM's ``collective_rpc``; of a pipeline only the last has states."""

    def __init__(self):
        self.workers = [SimpleNamespace(model_runner=Runner(second=False)) for _ in range(2)]

    async def collective_rpc(self, method, args):
        function = {"inferenceguard_start_states": start_states, "inferenceguard_read_states": read_states}[method]
        return [function(worker, *args) for worker in self.workers]


async def served(*, api_key=("K1",), engine=None):
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    app, endpoint = fastapi.FastAPI(), inferenceguard_vllm.endpoint()
    endpoint.attach_router(app)
    client = TestClient(app)
    assert client.get(states_vllm.PATH).status_code in (401, 501)
    await endpoint.init_state(engine or Engine(), SimpleNamespace(), Namespace(api_key=list(api_key) or None))
    return client


KEYED = {"authorization": "Bearer K1"}


async def test_whoever_has_both_keys_gets_the_states():
    engine = Engine()
    client = await served(engine=engine)
    assert client.get(states_vllm.PATH, headers=KEYED).json() == {"hidden_size": H}
    runner = engine.workers[1].model_runner
    runner.execute_model(step(new=[("r", asked(), 0, 6, 1)]), None)
    runner.execute_model(step(cached=[("r", 6, 1, 2)]), None)
    reads = {"reads": [{"key": "k", "lengths": [1]}, {"key": "other", "lengths": [1, 1]}]}
    found = client.post(states_vllm.PATH, json=reads, headers=KEYED).json()["reads"]
    assert [each["key"] for each in found] == ["k", "other"]
    assert decoded(found[0]["lanes"][0]["last"]) == [2.0] * H
    assert found[1]["lanes"] is None


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer K2"}, {"authorization": "K1"}, {"x": "y"}])
async def test_whoever_has_not_the_servers_key_gets_nothing(headers):
    client = await served()
    assert client.get(states_vllm.PATH, headers=headers).status_code == 401
    body = {"reads": [{"key": "k", "lengths": [1]}]}
    assert client.post(states_vllm.PATH, json=body, headers=headers).status_code == 401


async def test_a_server_without_a_key_keeps_no_states(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    engine = Engine()
    client = await served(api_key=(), engine=engine)
    refused = client.get(states_vllm.PATH)
    assert refused.status_code == 501
    assert "--api-key" in refused.json()["error"]
    assert not hasattr(engine.workers[0], "inferenceguard_capture")
    monkeypatch.setenv("VLLM_API_KEY", "K1")
    client = await served(api_key=())
    assert client.get(states_vllm.PATH, headers=KEYED).status_code == 200


async def test_workers_that_cannot_are_said_to():
    class Without:
        async def collective_rpc(self, method, args):
            raise AttributeError(method)

    client = await served(engine=Without())
    refused = client.get(states_vllm.PATH, headers=KEYED)
    assert refused.status_code == 501
    assert "cannot keep states" in refused.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"3", b"[" * 100_000, b'{"reads": 3}', b'{"reads": [3]}', b'{"reads": [{"key": "k"}]}',
        b'{"reads": [{"key": 3, "lengths": [1]}]}', b'{"reads": [{"key": "k", "lengths": [0]}]}',
        b'{"reads": [{"key": "k", "lengths": ["1"]}]}', b'{"reads": [{"key": "k", "lengths": 1}]}',
        b'{"reads": [{"key": "k", "lengths": [true]}]}',
        b'{"reads": [{"key": "k", "lengths": [' + b",".join([b"1"] * 5000) + b"]}]}",
    ],
)  # fmt: skip
async def test_bodies_that_are_none_are_refused(body):
    client = await served()
    refused = client.post(states_vllm.PATH, content=body, headers=KEYED)
    assert refused.status_code == 400
    assert refused.json()["error"]


# What vLLM finds, and what it does not


def test_both_sides_use_the_same_names():
    assert protocol.PATH == states_vllm.PATH
    call = Call((1, 2, 3), 2, 8, Sampler(), frozenset({0}), key="k")
    sent = DIALECTS["vllm"].body(call, model="m")
    assert sent["vllm_xargs"] == asked(first=3, count=8)
    assert sent["max_tokens"] == 9
    end = DIALECTS["openai"].body(states_vllm.end_of((1, 2, 3), frozenset({0})), model="m")
    assert (end["vllm_xargs"][FIRST], end["vllm_xargs"][COUNT], end["max_tokens"]) == (2, 1, 1)


def test_vllm_is_told_of_both_entry_points():
    for group, name in (("vllm.general_plugins", "register"), ("vllm.endpoint_plugins", "endpoint")):
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert f'[project.entry-points."{group}"]\ninferenceguard = "inferenceguard_vllm:{name}"' in text
        for found in entry_points(group=group, name=inferenceguard_vllm.NAME):  # of an installed copy, if there is one
            assert found.load() is getattr(inferenceguard_vllm, name)


def test_it_does_nothing_unless_vllm_is_told_to_load_it(monkeypatch):
    base = type("WorkerBase", (), {})
    for name in ("vllm", "vllm.v1", "vllm.v1.worker", "vllm.v1.worker.worker_base"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["vllm.v1.worker.worker_base"].WorkerBase = base
    for named in (None, "", "other", "other,inferenceguards"):
        monkeypatch.delenv("VLLM_PLUGINS", raising=False)
        if named is not None:
            monkeypatch.setenv("VLLM_PLUGINS", named)
        inferenceguard_vllm.register()
        assert not hasattr(base, "inferenceguard_start_states")
    monkeypatch.setenv("VLLM_PLUGINS", "other,inferenceguard")
    for _ in range(2):
        inferenceguard_vllm.register()
    assert base.inferenceguard_start_states is start_states
    assert base.inferenceguard_read_states is read_states


def test_importing_it_loads_neither_vllm_nor_anything_else_of_this_project():
    """It stands beside vLLM without this project's dependencies."""
    code = (
        "import sys, inferenceguard_vllm, inferenceguard_vllm.worker\n"
        "print(*({m.partition('.')[0] for m in sys.modules} & {'vllm', 'ig_plugins', 'critic_models', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "adapters")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
