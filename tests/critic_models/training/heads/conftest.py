"""Made data in which one word tells."""

import json
import random

import pytest

from tests.critic_models.judges.heads.conftest import encoder_folder  # noqa: F401  (a fixture)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(count, *, seed=0):
    """Two answers to each prompt, one unsafe; lengths say nothing."""
    rng = random.Random(seed)
    rows = []
    for prompt in range(count):
        for label, word in ((1, "stab"), (0, "sorry")):
            filler = " ".join(rng.choice(["alpha", "beta", "gamma", "delta"]) for _ in range(rng.randint(2, 9)))
            rows.append(
                {"prompt": f"question {seed}.{prompt}", "response": f"{filler} {word} {filler}", "label": label}
            )
    return rows


def pairs(count, *, seed=0):
    """The better answer says please, and is the longer one in half of the pairs."""
    rng = random.Random(seed)
    rows = []
    for prompt in range(count):
        long, short = "word " * rng.randint(5, 9), "word " * rng.randint(1, 4)
        chosen, rejected = (long, short) if prompt % 2 else (short, long)
        rows.append({"prompt": f"ask {seed}.{prompt}", "chosen": f"{chosen} please", "rejected": f"{rejected} now"})
    return rows


@pytest.fixture
def answers_file(tmp_path):
    return write(tmp_path / "answers.jsonl", answers(30))


@pytest.fixture
def pairs_file(tmp_path):
    return write(tmp_path / "pairs.jsonl", pairs(40))
