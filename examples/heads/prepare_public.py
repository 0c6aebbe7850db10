"""Turns the public sets of labelled answers into the files that `inferenceguard train-judge` reads.

    python examples/heads/prepare_public.py DATA OUT

DATA holds the sets under their names below; none is part of this project. What comes from JailbreakBench (MIT), XSTest
(CC BY 4.0, Röttger et al., NAACL 2024), HH-RLHF (MIT), PandaLM and Self-Instruct (Apache-2.0) may train a head that is
passed on. What comes from PKU-SafeRLHF (CC BY-NC 4.0) and Auto-J is for measuring, and for heads that stay where they
are. everyday_requests.jsonl has prompts alone; a policy answers them by `own_answers.py`.
"""

import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from ig_plugins.chat.tools import Tool
from ig_plugins.chat.wording import instruction

Rows = Iterator[dict[str, Any]]
TURN = "\n\nAssistant:"
LONGEST = 1200  # characters of a prompt


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


def in_json(rows: list[dict[str, Any]]) -> Rows:
    """Labelled answers once more, as JSON objects and tool calls: else a head takes a brace for a sign of harm.

    As many unsafe ones as safe ones, so that the form itself says nothing, and a few short harmless ones.
    """
    marked = sorted(
        ((crc32((row["prompt"] + row["response"]).encode()), row) for row in rows if "label" in row),
        key=lambda pair: pair[0],
    )
    unsafe, safe = ([(mark, row) for mark, row in marked if row["label"] == label] for label in (1, 0))
    for mark, row in [*unsafe, *safe[: len(unsafe)]]:
        if mark // 7 % 3 == 0:
            yield {**row, "response": _as_json(row, mark)}
    for mark, row in sorted(safe, key=lambda pair: pair[0] * 2654435761 % 2**32)[:60]:
        yield {**row, "response": _short_json(row, mark)}


def in_tools(rows: list[dict[str, Any]], requests: list[str]) -> Rows:
    """Calls and objects as a guard asks for them: behind the words about its tools, and filled in from a request.

    A probe reads states, and those depend on what stands before. Labelled answers, as many unsafe ones as safe ones,
    and short arguments that hold words of harmless requests (PandaLM's). None is made of a prompt to measure on.
    """
    marked = sorted(
        ((crc32(row["response"].encode()), row) for row in rows if not held_out(row)), key=lambda pair: pair[0]
    )
    for label in (1, 0):
        for mark, row in [pair for pair in marked if pair[1]["label"] == label][:100]:
            key = _KEYS[mark % 6]
            arguments = {"title": " ".join(row["prompt"].split()[:4]), key: row["response"]}
            yield {**_asked(row["prompt"], arguments, mark), "label": label}
    for request in sorted(set(requests), key=lambda text: crc32(text.encode()))[:160]:
        mark, words = crc32(request.encode()), request.split()
        yield {**_asked(request, _filled(words, mark), mark), "label": 0}


def everyday_requests(rows: Rows) -> Rows:
    """Everyday tasks as somebody would ask for them: harmless, whatever a policy makes of them."""
    for row in rows:
        given = row["instances"][0]["input"]
        prompt = f"{row['instruction']}\n\n{given}" if given else row["instruction"]
        if len(prompt) < LONGEST:
            yield {"prompt": prompt}


def held_out(row: dict[str, Any]) -> bool:
    """Whether a labelled answer is measured on: one prompt in five."""
    return crc32(row["prompt"].encode()) % 5 == 0


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
    made = {}
    for name, (file, reshape) in SETS.items():
        with gzip.open(data / file, "rt", encoding="utf-8") as lines:
            made[name] = list(reshape(json.loads(line) for line in lines))
    made["in_json"] = list(in_json(made["jailbreakbench"] + made["xstest"]))
    labelled = made["jailbreakbench"] + made["xstest"]
    made["in_tools"] = list(in_tools(labelled, [row["prompt"] for row in made["pandalm"]]))
    made["held_out"] = [row for row in labelled + made["in_json"] if held_out(row)]
    with (data / "self_instruct_user_oriented.jsonl").open(encoding="utf-8") as lines:
        made["everyday_requests"] = list(everyday_requests(json.loads(line) for line in lines))
    for name, rows in made.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{name}: {len(rows)} rows")
        if name in SMALLER:
            few = [row for row in rows if crc32(row["prompt"].encode()) % SMALLER[name] == 0]
            (out / f"{name}_part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few), encoding="utf-8")


def _last(dialogue: str) -> tuple[str, str]:
    before, _, answer = dialogue.rpartition(TURN)
    return before, answer.strip()


_NAMES = ("send", "search", "save_note", "reply", "post", "get_info")
_KEYS = ("text", "answer", "content", "message", "summary", "body")


def _as_json(row: dict[str, Any], mark: int) -> str:
    text, key, name = row["response"], _KEYS[mark % 6], _NAMES[mark // 6 % 6]
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()] or [text]
    title = " ".join(row["prompt"].split()[:6])
    forms = (
        {key: text},
        {"title": title, "steps": parts[:12], "count": len(parts)},
        _call(name, {key: text}),
        _call(name, {"title": title, "items": parts[:12], "priority": mark % 5}),
    )
    return _written(forms[mark // 36 % 4])


def _short_json(row: dict[str, Any], mark: int) -> str:
    words, few, key = row["response"].split(), 1 + mark % 7, _KEYS[mark % 6]
    start = " ".join(words[:few])
    forms = (
        {key: start, "number": mark % 1000},
        _call(_NAMES[mark // 6 % 6], {key: start, "days": mark % 30}),
        {"name": start, "tags": words[few : few + 3], "ok": bool(mark % 2)},
    )
    return _written(forms[mark % 3])


def _filled(words: list[str], mark: int) -> dict[str, Any]:
    """Arguments that hold the first words of a request, numbers, or nothing much."""
    start, some = " ".join(words[: 1 + mark % 3]), words[-1].strip(".?!,")
    forms: tuple[dict[str, Any], ...] = (
        {"product": start, "stars": mark % 6, "kind": "other"},
        {"task": start, "due": f"20{10 + mark % 20}-0{1 + mark % 9}-1{mark % 9}", "done": bool(mark % 2)},
        {"guest": some, "seats": 1 + mark % 9, "table": start},
        {"amount": mark % 500 / 10, "currency": "EUR"},
        {"song": start, "artist": some, "released": 1950 + mark % 70},
        {"level": "high", "note": "..."},
        {"parts": [{"label": start, "size": mark % 40}, {"label": some, "size": 2}], "gift": bool(mark % 2)},
        {"river": some, "length": mark % 4000},
    )
    return forms[mark // 7 % len(forms)]


def _asked(prompt: str, arguments: dict[str, Any], mark: int) -> dict[str, Any]:
    """A prompt behind the words that a guard puts there, and the call or object that it asks for."""
    name = ("Send", "Review", "add_entry", "lookup", "Record", "store_item")[mark // 6 % 6]
    kinds = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}
    schema = {
        "properties": {key: {"type": kinds[type(value)]} for key, value in arguments.items()},
        "required": list(arguments),
        "type": "object",
    }
    if mark // 5 % 3 == 0:
        wish = "Answer with one JSON object and nothing else, no code fence around it. It must match this JSON schema: "
        wish += _written(schema)
        return {"prompt": f"{wish}\n\n{prompt}", "response": _written(arguments)}
    tool: Tool = {
        "type": "function",
        "function": {"name": name, "description": "", "parameters": schema, "strict": False},
    }
    return {"prompt": f"{instruction([tool], name)}\n\n{prompt}", "response": _call(name, arguments)}


def _call(name: str, arguments: dict[str, Any]) -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {_written(arguments)}}}</tool_call>'


def _written(value: dict[str, Any] | str) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
