"""Requests to a server are under way together: nobody waits for torch, or for another's reply."""

import os
import time

import pytest

from ig_plugins.runtime import worker
from ig_plugins.runtime.batch import MAX_ROWS
from ig_plugins.runtime.fair_lock import torch_lock
from tests.ig_plugins.remote.conftest import QUESTION, cost, reward
from tests.kit.fake_engine import FakeEngine, stalls
from tests.kit.observe import fan_out, until
from tests.kit.scripted import ScriptedModel

SECONDS = 0.6  # that every call takes: much longer than what it needs of torch here


class Gentle(FakeEngine):
    """A server whose calls take time and no processor of ours, as on another machine."""

    def sample(self, prompt, body):
        if body.get("logit_bias"):
            return super().sample(prompt, body)
        count, most = body["n"], body["max_tokens"]
        return [([7 + lane] * most, False) for lane in range(count)]


@pytest.fixture
def gentle():
    with Gentle("vllm", seconds=0.0) as engine:
        yield engine


def shares(engine, work, callers):
    """In-flight calls on average while callers work, over the callers."""
    start = time.monotonic()
    work()
    return engine.mean_in_flight(start, time.monotonic()) / callers


OPTIONS = {"beams": 1, "candidates": 4, "block_tokens": 8, "max_tokens": 64, "load_options": {"page": 0}}


def test_eight_callers_of_one_guard_have_their_calls_in_flight_together(gentle, guarded):
    guard = guarded(gentle, **OPTIONS)
    guard.generate(QUESTION, max_tokens=8)
    gentle.seconds = SECONDS
    share = shares(gentle, lambda: fan_out(guard.generate, [QUESTION] * 8), 8)
    assert share > 0.8, f"{share:.2f} of the callers' calls are in flight together"


def test_eight_guards_have_their_calls_in_flight_together(gentle, guarded):
    guards = [guarded(gentle, cost_model=lambda p, r: cost(p, r), **OPTIONS) for _ in range(8)]
    for guard in guards:
        guard.generate(QUESTION, max_tokens=8)
    assert len({id(guard.components) for guard in guards}) == 8
    gentle.seconds = SECONDS
    share = shares(gentle, lambda: fan_out(lambda guard: guard.generate(QUESTION), guards), 8)
    assert share > 0.8, f"{share:.2f} of the guards' calls are in flight together"


def test_a_list_of_prompts_is_in_flight_together_and_so_are_a_blocks_beams(gentle, guarded):
    guard = guarded(gentle, **{**OPTIONS, "beams": 4})
    gentle.seconds = 2 * SECONDS
    guard.generate([QUESTION] * 8, max_tokens=16)
    assert max(running for _, running in gentle.gauge) > 24, "eight prompts of four beams each"


def test_torch_is_free_while_a_server_samples(engine, guarded):
    server = engine()
    guard = guarded(server)
    server.plan = lambda number, body: stalls
    ticket = guard.prepare(QUESTION, timeout=20)
    worker().submit([ticket])
    until(lambda: server.running > 0)
    started = time.monotonic()
    with torch_lock:
        waited = time.monotonic() - started
    ticket.cancel()
    assert waited < 1.0


def test_more_requests_than_lines_are_all_answered_and_no_line_is_left(gentle, guarded):
    guard = guarded(gentle, **OPTIONS)
    gentle.seconds = 0.02
    results = guard.generate([QUESTION] * (MAX_ROWS + 9), max_tokens=8)
    assert all(result.text for result in results)
    assert max(running for _, running in gentle.gauge) <= MAX_ROWS
    until(lambda: not worker()._lines and not worker()._backlog)


def test_connections_are_kept_and_used_again(gentle, guarded):
    guard = guarded(gentle, **OPTIONS)
    before, asked = gentle.connections, len(gentle.bodies)
    for _ in range(4):
        guard.generate(QUESTION)
    assert len(gentle.bodies) - asked >= 32
    assert gentle.connections - before <= 1


def test_a_forked_child_opens_connections_of_its_own(gentle, guarded):
    guard = guarded(gentle, **OPTIONS)
    guard.generate(QUESTION, max_tokens=8)
    before = gentle.connections
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(len(guard.generate(QUESTION, max_tokens=8, timeout=60).text)).encode())
        finally:
            os._exit(0)
    os.close(write)
    assert int(os.read(read, 100)) > 0
    os.waitpid(child, 0)
    assert gentle.connections > before
    assert guard.generate(QUESTION, max_tokens=8).text


def test_the_search_of_a_policy_in_this_process_is_still_one_batch(guarded):
    """What was decoded as one batch is so still; see the worker."""
    from tests.kit.guards import make_guard

    guard = make_guard({"Hello there.": 1.0})
    assert isinstance(guard.components.policy.tree, ScriptedModel)
    guard.generate(["a"] * 6)
    assert guard.components.policy.tree.steps < 6 * len("Hello there.")
    assert reward([], ["x"]) == [1.0]
