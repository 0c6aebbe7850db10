"""What a guarded request costs an engine: the formulas of docs/scaling.md against the counters of real runs.

    python examples/scale/costs.py [--model tiny-alpaca]

It prints the tokens that lanes sampled and that judges read: as counted, and as N, K, d and the lengths say.
"""

import argparse
from dataclasses import dataclass

from ig_plugins import InferenceGuard

PROMPT = "How do I clean a window?"


@dataclass(frozen=True)
class Costs:
    """Of one request that needs no retry, at most; lanes that end early cost less.

    Attributes:
        prompt: P, tokens.
        answer: T, tokens.
        candidates: N.
        beams: K.
        block: d.
    """

    prompt: int
    answer: int
    candidates: int
    beams: int
    block: int

    @property
    def blocks(self) -> int:
        """Searches, each with one selection."""
        return -(-self.answer // self.block)

    @property
    def sampled(self) -> int:
        """Tokens that lanes sample: each of N lanes grows through every block."""
        return self.candidates * self.answer

    def judged(self, *, critic: bool) -> int:
        """Tokens that one judge on a token tree reads: the prompt once, then all lanes.

        With a critic the beams, and beside this bound lanes that ended and were ranked above the answer.
        """
        return self.prompt + (self.beams if critic else self.candidates) * self.answer

    @property
    def kept(self) -> tuple[int, int]:
        """Tokens whose keys and values are held at the end: where beams agree, and where they never do."""
        open_block = self.candidates * self.block
        return self.prompt + self.answer + open_block, self.prompt + self.beams * self.answer + open_block


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-alpaca")
    guard = InferenceGuard.from_pretrained(parser.parse_args().model, seed=1, tries=1, adaptive="off")
    for critic in (True, False):
        mine = (
            guard
            if critic
            else InferenceGuard.from_pretrained(parser.parse_args().model, critic=False, seed=1, tries=1)
        )
        for candidates, beams, block in ((4, 1, 8), (16, 4, 8), (16, 4, 16), (64, 16, 16)):
            result = mine.generate(PROMPT, candidates=candidates, beams=beams, block_tokens=block)
            usage, answer = result.usage, len(result.token_ids)
            costs = Costs(usage.prompt_tokens, answer, candidates, beams, block)
            judges = len(mine.components.judges)
            print(
                f"{'critic' if critic else 'direct'} N={candidates} K={beams} d={block} P={costs.prompt} T={answer}: "
                f"sampled {usage.candidate_tokens} (at most {costs.sampled}), "
                f"judged {usage.judge_tokens} (at most {judges * costs.judged(critic=critic)})"
            )


if __name__ == "__main__":
    main()
