"""Weights that lie on your disk: a GGUF file, a folder, a PEFT adapter.

Run with a path: ``python examples/local_weights.py some-model.Q4_K_M.gguf "What is the capital of France?"``
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ig_plugins import InferenceGuard


def names_no_weapon(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """A cost model of your own: above 0 is unsafe. A real one is a checkpoint's folder or hub id."""
    return [float(any(word in response.lower() for word in ("knife", "gun", "bomb"))) for response in responses]


def main(path: Path, question: str) -> None:
    guard = InferenceGuard.from_pretrained(
        path, cost_model=names_no_weapon, candidates=4, beams=2, max_tokens=24, seed=1
    )
    print(guard.search.temperature, guard.components.prompt_format.name)  # what the checkpoint itself says
    print(guard.generate(question).text.strip())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2])
