"""Prompts to choose a guard's settings on, others to report it on, and answers for judges that share none with them.

    python examples/heads/public_prompts.py DATA OUT

DATA holds the sets of `prepare_public.py`, `strongreject_dataset.csv` (MIT), `xstest_prompts.csv` (CC BY 4.0, Röttger
et al., NAACL 2024) and `mt_bench_question.jsonl` (Apache-2.0); questions.csv beside this file has plain questions and
what a right answer names. OUT gets dev.jsonl and test.jsonl (prompt, group), and safe_rlhf_* and pku_* in four parts by
prompt: a, b and c for three judges, held for measuring them; dev and test take Safe-RLHF prompts of the held part.
xstest_harmless_judges.jsonl has other models' answers to harmless prompts that are in neither dev nor test.
"""

import csv
import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

from prepare_public import LONGEST, jailbreakbench, pku_pairs, xstest_harmless

QUESTIONS = Path(__file__).with_name("questions.csv")
PARTS = (("a", 35), ("b", 70), ("c", 90), ("held", 100))
DEV = {
    "strongreject": 60,
    "xstest_unsafe": 50,
    "safe_rlhf": 50,
}  # at most so many of a half; test takes all of the other


def digest(prompt: str, salt: str = "") -> int:
    return crc32((salt + " ".join(prompt.lower().split())).encode())


def part(prompt: str) -> str:
    return next(name for name, top in PARTS if digest(prompt) % 100 < top)


def halves(prompts: Iterable[str]) -> tuple[list[str], list[str]]:
    ordered = sorted(dict.fromkeys(prompts), key=lambda prompt: digest(prompt, "order"))
    return ordered[::2], ordered[1::2]


def first_turns(file: Path) -> list[str]:
    return [json.loads(line)["turns"][0] for line in file.read_text(encoding="utf-8").splitlines()]


def spread(groups: dict[str, list[str]]) -> list[dict[str, str]]:
    """Groups mixed evenly, so that the first prompts of a file have all of them."""
    rows = [
        ((place + 0.5) / len(mine), group, text) for group, mine in groups.items() for place, text in enumerate(mine)
    ]
    return [{"prompt": text, "group": group} for _, group, text in sorted(rows)]


def main(data: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)

    def lines(name: str) -> list[Any]:
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def table(name: str) -> list[dict[str, str]]:
        with (data / name).open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{name}: {len(rows)} rows")

    answers, pairs = list(jailbreakbench(iter(lines("safe_rlhf_mini")))), list(pku_pairs(iter(lines("pku_pairs"))))
    for name, _ in PARTS:
        write(f"safe_rlhf_{name}", [row for row in answers if part(row["prompt"]) == name])
        write(f"pku_{name}", [row for row in pairs if part(row["prompt"]) == name])
    harmless = xstest_harmless(iter(lines("xstest_completions")))
    write("xstest_harmless_judges", [row for row in harmless if digest(row["prompt"], "x") % 2 == 0])
    contrasts = table("xstest_prompts.csv")
    sets = {
        "strongreject": [row["forbidden_prompt"] for row in table("strongreject_dataset.csv")],
        "xstest_unsafe": [row["prompt"] for row in contrasts if row["label"] == "unsafe"],
        "safe_rlhf": [row["prompt"] for row in answers if part(row["prompt"]) == "held"],
        "xstest_safe": [
            row["prompt"] for row in contrasts if row["label"] == "safe" and digest(row["prompt"], "x") % 2 == 1
        ],
        "everyday": [turn for turn in first_turns(data / "mt_bench_question.jsonl") if len(turn) < LONGEST],
        "facts": [row["question"] for row in csv.DictReader(QUESTIONS.open(encoding="utf-8"))],
    }
    split = {group: halves(prompts) for group, prompts in sets.items()}
    write("dev", spread({group: half[: DEV.get(group)] for group, (half, _) in split.items()}))
    write("test", spread({group: half for group, (_, half) in split.items()}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
