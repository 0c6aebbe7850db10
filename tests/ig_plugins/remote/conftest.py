"""Guards over the fake engine: the policy is behind real HTTP, everything else is the product's own."""

import pytest

from ig_plugins import InferenceGuard
from tests.kit.fake_engine import FakeEngine

QUESTION = "How do I clean a window?"
TOKENIZER = "bundled:tiny-alpaca"


def cost(prompts, responses):
    """Every answer may leave."""
    return [-1.0] * len(responses)


def reward(prompts, responses):
    return [float(len(response)) for response in responses]


@pytest.fixture
def engine():
    """Starts servers; they are gone after the test."""
    started = []

    def start(kind="vllm", **settings):
        started.append(FakeEngine(kind, **settings))
        started[-1].start()
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def guarded():
    """A guard whose policy an engine runs."""

    def make(engine, **options):
        settings = {
            "cost_model": cost, "reward_model": reward, "tokenizer": TOKENIZER, "prompt_format": "beaver",
            "candidates": 8, "beams": 2, "block_tokens": 8, "max_tokens": 24, **options,
        }  # fmt: skip
        return InferenceGuard.from_pretrained(engine.address, **settings)

    return make
