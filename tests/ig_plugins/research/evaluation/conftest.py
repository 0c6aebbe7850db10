import pytest

from ig_plugins.research.evaluation.prompts import Prompt
from ig_plugins.research.evaluation.verdicts import Verdicts
from tests.kit.contexts import scripted_context

ANSWERS = {"bad but great": 0.4, "good and fine": 0.2, "sly": 0.1, "no": 0.3}
REWARDS = {"bad but great": 3.0, "good and fine": 2.0, "sly": 2.5, "no": -1.0}


def cost(prompt, response):
    """The cost model does not know that "sly" is unsafe; the judge does."""
    return 1.0 if "bad" in response else -1.0


def reward(prompt, response):
    return REWARDS.get(response, 0.1 * len(response))


@pytest.fixture
def context():
    return scripted_context(ANSWERS, cost=cost, reward=reward, search={"candidates": 8, "beams": 2})


@pytest.fixture
def prompts():
    return [Prompt(f"prompt {index}", "sensitive" if index % 2 else "benign") for index in range(4)]


@pytest.fixture
def stern():
    """Another judge, which finds "no" unsafe and nothing else."""
    from critic_models.judges import as_judge

    return Verdicts.of(as_judge(lambda ps, rs: [float(r == "no") for r in rs], name="stern", kind="cost"))


@pytest.fixture
def verdicts():
    from critic_models.judges import as_judge

    return Verdicts.of(as_judge(lambda ps, rs: [float("bad" in r or "sly" in r) for r in rs], name="j", kind="cost"))
