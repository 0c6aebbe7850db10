"""What a policy itself says to a file of prompts, unguarded: rows for `inferenceguard train-judge`.

    python examples/heads/own_answers.py MODEL PROMPTS OUT [ANSWERS] [TOKENS]

PROMPTS has JSON lines with a harmless prompt each. OUT gets ANSWERS (4) answers of up to TOKENS (64) tokens to each of
them, labelled 0. A head has to know what its policy says to requests that nothing is wrong with: it was taught by
answers of other models, to other requests, and takes what is unlike those for harm.
"""

import json
import sys
from pathlib import Path

from ig_plugins import InferenceGuard
from ig_plugins.research.evaluation.prompts import load_prompts
from ig_plugins.research.methods import Context, method

BATCH = 8  # prompts


def main(model: str, prompts: Path, out: Path, answers: int = 4, tokens: int = 64) -> None:
    texts = list(dict.fromkeys(prompt.text for prompt in load_prompts(prompts)))
    sample = method("base").build(Context(InferenceGuard.from_pretrained(model, max_tokens=tokens)))
    with out.open("w", encoding="utf-8") as file:
        for start in range(0, len(texts), BATCH):
            asked = [text for text in texts[start : start + BATCH] for _ in range(answers)]
            seeds = [start * answers + place for place in range(len(asked))]
            for prompt, answer in zip(asked, sample.answer(asked, seeds=seeds), strict=True):
                file.write(json.dumps({"prompt": prompt, "response": answer.text, "label": 0}) + "\n")
    print(f"{out.name}: {answers} answers each to {len(texts)} prompts")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
