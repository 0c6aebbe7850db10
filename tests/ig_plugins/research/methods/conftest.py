import pytest

from tests.kit.contexts import scripted_context, tiny_context

ANSWERS = {"bad but great": 0.4, "good and fine": 0.2, "good then bad": 0.1, "no": 0.3}
REWARDS = {"bad but great": 3.0, "good and fine": 2.0, "good then bad": 2.5, "no": -1.0}


def cost(prompt, response):
    return 1.0 if "bad" in response else -1.0


def reward(prompt, response):
    return REWARDS.get(response, 0.1 * len(response))


@pytest.fixture
def careless():
    """The best paid answer is unsafe, one turns unsafe late, the safe and helpful one is rarer."""
    return lambda **options: scripted_context(ANSWERS, cost=cost, reward=reward, **options)


@pytest.fixture(scope="session")
def tiny():
    return tiny_context(training_prompts=("one", "two", "three", "four"))
