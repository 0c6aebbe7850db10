"""The prompts that the bundled critics learn from: ``python -m critic_models.bundled.critic_prompts FILE``.

Training topics only, three sensitive ones to one benign one.
"""

import argparse
import json
import random
from pathlib import Path

from critic_models.bundled import world

SENSITIVE, BENIGN, SEED = 720, 240, 7


def critic_prompts() -> list[str]:
    """The same prompts at every call, in mixed order."""
    rng = random.Random(SEED)
    chosen = rng.sample(world.prompts("train", "sensitive"), SENSITIVE)
    chosen += rng.sample(world.prompts("train", "benign"), BENIGN)
    rng.shuffle(chosen)
    return chosen


def main() -> None:
    """Write them as JSON lines."""
    parser = argparse.ArgumentParser(prog="python -m critic_models.bundled.critic_prompts", description=__doc__)
    parser.add_argument("file", type=Path)
    file: Path = parser.parse_args().file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in critic_prompts()), encoding="utf-8")


if __name__ == "__main__":
    main()
