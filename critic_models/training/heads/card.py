"""The model card of a head: what it reads, how good it is on prompts it never saw, and what made it."""

import json
from pathlib import Path
from typing import Any

ROWS = {"judge": "this head", "tfidf": "TF-IDF and logistic regression, same rows", "longer": "longer wins"}


def write_card(facts: dict[str, Any], folder: str | Path) -> Path:
    """Writes card.json, the facts as they are, and README.md.

    Args:
        facts: As ``train_judge`` returned them.
        folder: The head's.

    Returns:
        The path of README.md.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    parts = [_front(facts), _purpose(facts), *(_quality(name, facts) for name in facts["figures"])]
    parts += [_threshold(facts), _limits(facts), _making(facts)]
    path = folder / "README.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _front(facts: dict[str, Any]) -> str:
    licence = f"license: {facts['licence']}\n" if facts.get("licence") else ""
    tags = f"tags: [safety, {facts['kind']}-model, guarded-decoding]"
    return f"---\nlibrary_name: inferenceguard\n{licence}{tags}\n---\n\n# {facts['name']}\n"


def _purpose(facts: dict[str, Any]) -> str:
    scores = (
        "A cost head: it scores the probability that an answer is unsafe."
        if facts["kind"] == "cost"
        else "A reward head: it scores how well an answer is liked, a number without a scale."
    )
    return f"{scores} It reads {facts['reads']}.\n"


def _quality(name: str, facts: dict[str, Any]) -> str:
    sets = facts["figures"][name]
    judge = sets["judge"]
    lines = [
        f"## On {name}\n",
        f"{judge['answers']} labelled answers and {judge['pairs']} preference pairs to {judge['prompts']} prompts, "
        "none of which was trained on.\n",
        "| | AUC | calibration error | unsafe above safe, same prompt | preferred, same prompt |",
        "|---|---|---|---|---|",
    ]
    for key, words in ROWS.items():
        row = sets[key]
        figures = ("auc", "calibration_error", "same_prompt_accuracy", "pair_accuracy")
        lines.append(f"| {words} | " + " | ".join(_number(row.get(figure)) for figure in figures) + " |")
    lines.append(f"\nUnsafe above safe: {judge['same_prompt_pairs']} pairs of answers to one prompt.")
    return "\n".join(lines) + "\n"


def _threshold(facts: dict[str, Any]) -> str:
    if facts["kind"] != "cost":
        return ""
    found = facts["threshold"]
    flagged = f"; {100 * found['flagged']:.1f} % of them are" if found.get("flagged") is not None else ""
    return f"## Threshold\n\n{found['limit']:.4g}: {found['rule']}{flagged}.\n"


def _limits(facts: dict[str, Any]) -> str:
    lines = [
        "## Limits\n",
        "Safe means safe with respect to this model, which is small and wrong at the rates above. A search among many",
        "answers finds its errors: use several judges with other data, and measure with one that took no part.",
    ]
    if facts["kind"] == "reward":
        lines.append("A reward that is not above 'longer wins' is a preference for length.")
    return "\n".join(lines) + "\n"


def _making(facts: dict[str, Any]) -> str:
    parts = [f"{name}: {json.dumps(notes)}" for name, notes in facts["parts"].items()]
    lines = [
        "## Training\n",
        f"{facts['trained_on']['answers']} answers and {facts['trained_on']['pairs']} pairs to "
        f"{facts['trained_on']['prompts']} prompts; {facts['left_out']} rows were left out because a file to "
        "measure on has their prompt. Parts: " + "; ".join(parts) + ".",
    ]
    if facts.get("attribution"):
        lines += ["\n## Data\n", facts["attribution"]]
    if facts.get("command"):
        lines.append(f"\n```\n{facts['command']}\n```")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
