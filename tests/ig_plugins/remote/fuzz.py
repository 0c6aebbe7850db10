"""A server that dies, stalls or lies at a random moment of every answer: what left, when, and which error came.

``python -m tests.ig_plugins.remote.fuzz 200`` prints the figures of docs/remote.md; ``... 200 states`` those of a guard
whose critic reads the server's hidden states, half of the faults being in these.
"""

import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from unittest.mock import patch

from critic_models.safety import SafetyBudget
from ig_plugins import DeadlineExceededError, InferenceGuard, InferenceGuardError, RemoteError
from tests.kit.fake_engine import FakeEngine, half, hangs_up, lies, says, stalls, status, trickles
from tests.kit.state_lies import LIES

QUESTIONS = ("How do I clean a window?", "How do I store medicine?", "How do I wrap a present?")
CRITIC, BUDGET = "bundled:tiny-alpaca-critic", SafetyBudget(accounting="cumulative", limit=10.0)
SECONDS = 4.0  # every answer's timeout
TYPED = (RemoteError, DeadlineExceededError)


def _wrong_id(choices):
    choices[0]["token_ids" if "token_ids" in choices[0] else "tokens"][-1:] = [10**7]


def lied(lie):
    """A fault that changes the honest reply."""
    return lambda handler, reply: handler.send(200, lie(reply))


BROKEN = {
    "killed": None,
    "stalls": stalls,
    "trickles": trickles,
    "hangs up": hangs_up,
    "half a reply": half,
    "status 500": status(500),
    "status 429": status(429),
    "no JSON": says(b"<html>"),
}
FAULTS = {
    **BROKEN,
    "a wrong id": lies(_wrong_id),
    "a choice too few": lies(lambda choices: choices[1:]),
    "a text": says({"choices": [{"index": 0, "text": "UNJUDGED", "finish_reason": "stop"}]}),
}


@dataclass
class Found:
    """What the answers did.

    Attributes:
        unjudged: Characters that left and that no judge had passed.
        untyped: Errors that are none of ours.
        late: Answers that took longer than their timeout and a second.
        slowest: Seconds.
        ends: How the answers ended, counted.
        dead: Why the guard could not answer any more, after some of them.
    """

    unjudged: int = 0
    untyped: list[str] = field(default_factory=list)
    late: int = 0
    slowest: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    dead: list[str] = field(default_factory=list)


def fuzz(answers: int, *, seed: int = 0, kind: str = "vllm", states: bool = False) -> Found:
    """Asks for answers, each with a fault at a random call; streamed and whole ones, alone and two at once.

    Args:
        answers: How many.
        seed: Of the faults.
        kind: Of the server.
        states: A critic reads the server's hidden states, and half of the faults are in these.
    """
    dice, found, passed = random.Random(seed), Found(), set()

    def cost(prompts, responses):
        passed.update(responses)
        return [-1.0] * len(responses)

    of_states = {**BROKEN, **{name: lied(lie) for name, lie in LIES.get(kind, {}).items()}}
    guided = {"critic": CRITIC, "budget": BUDGET} if states else {}
    with patch.dict(os.environ, INFERENCEGUARD_REMOTE_KEY="K1"), FakeEngine(kind, states=states) as engine:
        guard = InferenceGuard.from_pretrained(
            engine.address, cost_model=cost, reward_model=lambda prompts, responses: [float(len(r)) for r in responses],
            tokenizer="bundled:tiny-alpaca", prompt_format="beaver", candidates=4, beams=2, block_tokens=8,
            max_tokens=40, timeout=SECONDS, load_options={"attempts": 2}, **guided,
        )  # fmt: skip
        for _ in range(answers):
            where, lasts = dice.randrange(8), dice.choice((1, 100))
            if states and dice.random() < 0.5:
                name = dice.choice(list(of_states))
                engine.state_plan = plan_of(engine, of_states[name], len(engine.state_bodies) - 1 + where // 2, lasts)
            else:
                name = dice.choice(list(FAULTS))
                engine.plan = plan_of(engine, FAULTS[name], len(engine.bodies) + where, lasts)
            _answer(guard, dice, passed, found)
            engine.plan = engine.state_plan = lambda number, body: None
            engine.kill()
            engine.start()
            try:
                guard.generate(QUESTIONS[0], timeout=60, max_tokens=8)
            except InferenceGuardError as error:
                found.dead.append(f"after {name}: {error!r}")
    return found


def plan_of(engine, fault, first, lasts):
    """A fault of some calls in a row; None kills the server."""

    def killed(handler, reply):
        engine.kill(handler.server)  # a handler that comes late must not kill the one that runs by then

    return lambda number, body: (fault or killed) if first <= number < first + lasts else None


def _answer(guard, dice, passed, found):
    started, text = time.monotonic(), ""
    try:
        if dice.random() < 0.6:
            for chunk in guard.stream(dice.choice(QUESTIONS)):
                text += chunk.text
        elif dice.random() < 0.5:
            text = guard.generate(dice.choice(QUESTIONS)).text
        else:
            text = guard.generate([dice.choice(QUESTIONS), dice.choice(QUESTIONS)])[0].text
        found.ends["answered"] += 1
    except TYPED as error:
        found.ends[type(error).__name__] += 1
    except BaseException as error:
        found.untyped.append(repr(error))
    seconds = time.monotonic() - started
    found.slowest = max(found.slowest, seconds)
    found.late += seconds > SECONDS + 1
    if text and text not in passed:
        found.unjudged += len(text)


if __name__ == "__main__":
    for each in ("vllm", "llamacpp"):
        print(each, fuzz(int(sys.argv[1]) if len(sys.argv) > 1 else 20, kind=each, states="states" in sys.argv))
