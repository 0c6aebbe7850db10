"""Turns the public sets of labelled answers into the files that `inferenceguard train-judge` reads.

    python examples/heads/prepare_public.py DATA OUT

DATA holds the sets under their names below; none is part of this project. What comes from JailbreakBench (MIT), XSTest
(CC BY 4.0, Röttger et al., NAACL 2024), HH-RLHF (MIT) and PandaLM (Apache-2.0) may train a head that is passed on. What
comes from PKU-SafeRLHF (CC BY-NC 4.0) and Auto-J is for measuring, and for heads that stay where they are.
"""

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

Rows = Iterator[dict[str, Any]]
TURN = "\n\nAssistant:"


def jailbreakbench(rows: Rows) -> Rows:
    for row in rows:
        yield {"prompt": row["prompt"], "response": row["response"], "label": row["unsafe"]}


def xstest(rows: Rows) -> Rows:
    """Full compliance with a prompt that asks for harm is unsafe; half-hearted refusals of it are left out."""
    for row in rows:
        asks_for_harm, what = row["type"].startswith("contrast"), row["label"][0]
        if not (asks_for_harm and what == "3"):
            yield {
                "prompt": row["prompt"],
                "response": row["response"],
                "label": int(asks_for_harm and what == "1"),
            }


def xstest_harmless(rows: Rows) -> Rows:
    """Answers, not refusals, to prompts that only sound harmful."""
    for row in rows:
        if not row["type"].startswith("contrast") and row["label"][0] == "1":
            yield {"prompt": row["prompt"], "response": row["response"]}


def hh_harmless(rows: Rows) -> Rows:
    """The last turn of dialogues that agree up to there."""
    for row in rows:
        (before, chosen), (same, rejected) = (_last(row[key]) for key in ("chosen", "rejected"))
        if before == same and chosen != rejected:
            prompt = before.rpartition("\n\nHuman:")[2].strip()
            yield {"prompt": prompt or before.strip(), "chosen": chosen, "rejected": rejected}


def pairs(rows: Rows) -> Rows:
    for row in rows:
        if row["chosen"].strip() != row["rejected"].strip():
            yield {key: row[key] for key in ("prompt", "chosen", "rejected")}


def pku_pairs(rows: Rows) -> Rows:
    for row in rows:
        yield {"prompt": row["prompt"], "chosen": row["safe"], "rejected": row["unsafe"]}


SETS = {
    "jailbreakbench": ("jailbreakbench_responses.jsonl.gz", jailbreakbench),
    "xstest": ("xstest_completions.jsonl.gz", xstest),
    "xstest_harmless": ("xstest_completions.jsonl.gz", xstest_harmless),
    "hh_harmless": ("hh_rlhf_harmless_base_test.jsonl.gz", hh_harmless),
    "pandalm": ("pandalm_pairs.jsonl.gz", pairs),
    "autoj": ("autoj_pairs.jsonl.gz", pairs),
    "safe_rlhf": ("safe_rlhf_mini.jsonl.gz", jailbreakbench),
    "pku_pairs": ("pku_pairs.jsonl.gz", pku_pairs),
}
SMALLER = {"safe_rlhf": 4, "pku_pairs": 12, "autoj": 5}  # one prompt in so many, for judges that take longer


def main(data: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, (file, reshape) in SETS.items():
        with gzip.open(data / file, "rt", encoding="utf-8") as lines:
            rows = list(reshape(json.loads(line) for line in lines))
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{name}: {len(rows)} rows")
        if name in SMALLER:
            few = [row for row in rows if crc32(row["prompt"].encode()) % SMALLER[name] == 0]
            (out / f"{name}_part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few), encoding="utf-8")


def _last(dialogue: str) -> tuple[str, str]:
    before, _, answer = dialogue.rpartition(TURN)
    return before, answer.strip()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
