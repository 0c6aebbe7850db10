"""The prompts that the bundled critics learn from: ``python -m critic_models.bundled.critic_prompts FILE [--unseen]``.

Training topics only, three sensitive ones to one benign one; with ``--unseen`` as many as are held out of training, in
the same mixture, about the topics that no training prompt is about.
"""

import argparse
import json
import random
from pathlib import Path
from typing import Literal

from critic_models.bundled import world

COUNTS = {"train": (720, 240), "test": (108, 36)}  # sensitive, benign
SEED = 7


def critic_prompts(split: Literal["train", "test"] = "train") -> list[str]:
    """The same prompts at every call, in mixed order; the two splits share no topic."""
    rng = random.Random(SEED)
    sensitive, benign = COUNTS[split]
    chosen = rng.sample(world.prompts(split, "sensitive"), sensitive)
    chosen += rng.sample(world.prompts(split, "benign"), benign)
    rng.shuffle(chosen)
    return chosen


def main() -> None:
    """Write them as JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m critic_models.bundled.critic_prompts", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--unseen", action="store_true", help="the topics that no training prompt is about")
    given = parser.parse_args()
    file: Path = given.file
    chosen = critic_prompts("test" if given.unseen else "train")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in chosen), encoding="utf-8")


if __name__ == "__main__":
    main()
