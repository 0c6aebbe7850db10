"""A file of prompts of any size to guarded answers, on as many workers as Ray has room for.

    pip install "ray[data]"
    python examples/scale/ray_data.py prompts.jsonl answers.jsonl --model tiny-alpaca --workers 2

Each line of the first file is {"id": ..., "prompt": ...}. The answers are appended to the second as they come, in any
order; a run that was stopped goes on with the prompts that have none. The seed of a prompt follows from its id, so
that an answer does not depend on the partition, on the order, or on how often a worker died.
"""

import argparse
import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from ig_plugins import InferenceGuard
from ig_plugins.errors import InferenceGuardError


class Answer:
    """Holds a guard, loaded once a worker, and answers batches of rows."""

    def __init__(self, guard: InferenceGuard, seed: int) -> None:
        import torch

        torch.set_num_threads(1)  # a worker has one processor
        self.guard, self.seed = guard, seed

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """All rows of a batch are decoded together; one that fails costs the others nothing."""
        ids, prompts = [str(each) for each in batch["id"]], [str(each) for each in batch["prompt"]]
        answers = asyncio.run(self.answers(ids, prompts))
        return {"id": ids, "answer": [json.dumps(answer) for answer in answers]}

    async def answers(self, ids: list[str], prompts: list[str]) -> list[dict[str, Any]]:
        """In the order of the prompts."""
        return await asyncio.gather(*(self.answer(*each) for each in zip(ids, prompts, strict=True)))

    async def answer(self, name: str, prompt: str) -> dict[str, Any]:
        """The text with the guard's report, or what went wrong."""
        try:
            result = await self.guard.agenerate(prompt, seed=seed_of(name, self.seed))
        except InferenceGuardError as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return {"text": result.text, "blocked": result.blocked, "cost": result.cost, "reward": result.reward}


def seed_of(name: str, seed: int) -> int:
    """A prompt's own seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6], "big")


def unanswered(prompts: Path, answers: Path) -> Iterator[dict[str, str]]:
    """The rows that have no answer yet. A last line that was cut off counts as none, and is taken away."""
    done = set()
    if answers.exists():
        whole = [line for line in answers.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        answers.write_text("".join(whole), encoding="utf-8")
        done = {json.loads(line)["id"] for line in whole}
    with prompts.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if str(row["id"]) not in done:
                yield {"id": str(row["id"]), "prompt": row["prompt"]}


def main() -> None:
    """Answer what has no answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--model", default="tiny-alpaca")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="prompts that a worker decodes together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = list(unanswered(options.prompts, options.answers))
    if not rows:
        print("every prompt has an answer")
        return
    # A guard pickles as the names that it was loaded from: no weights travel. A worker that dies is started again, and
    # its batch with it; only whole batches reach the loop below, which alone writes.
    guard = InferenceGuard.from_pretrained(options.model)
    answered = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // options.batch)).map_batches(
        Answer,
        fn_constructor_args=(guard, options.seed),
        batch_size=options.batch,
        concurrency=options.workers,
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=-1,
    )
    with options.answers.open("a", encoding="utf-8") as file:
        for row in answered.iter_rows():
            file.write(json.dumps({"id": row["id"], **json.loads(row["answer"])}) + "\n")
            file.flush()
    print(f"{len(rows)} answers in {options.answers}")


if __name__ == "__main__":
    main()
