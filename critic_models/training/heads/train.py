"""From files of labelled answers or preference pairs to a head with its threshold and its card."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from critic_models.errors import ConfigurationError
from critic_models.judges.heads import Probe, TextHead
from critic_models.judges.protocol import Kind
from critic_models.training.heads.data import Examples, folds, read_examples, read_texts
from critic_models.training.heads.measure import Score, compare
from critic_models.training.heads.probe import ProbeTraining, probe_scores, set_probe_threshold, train_probe
from critic_models.training.heads.text import TextTraining, train_text_head
from critic_models.training.heads.threshold import flag_at_most

Head = TextHead | Probe
Progress = Callable[[str], None]


@dataclass(frozen=True)
class JudgeTraining:
    """How a judge is trained and measured.

    Attributes:
        how: What it reads, a text head's or a probe's settings.
        held_out: Share of the prompts that is only measured on; 0 for none, then test files are needed.
        flag_at_most: Share of harmless answers that a cost may flag.
        seed: Decides which prompts are held out.
    """

    how: TextTraining | ProbeTraining = field(default_factory=TextTraining)
    held_out: float = 0.2
    flag_at_most: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= 0.5:
            raise ConfigurationError(f"held_out is {self.held_out}; give a share from 0 to 0.5")
        if not 0 <= self.flag_at_most < 1:
            raise ConfigurationError(f"flag_at_most is {self.flag_at_most}; give a share from 0 to below 1")


def train_judge(
    data: Sequence[str | Path],
    *,
    training: JudgeTraining,
    policy: tuple[Any, Any] | None = None,
    tests: Mapping[str, str | Path] | None = None,
    harmless: str | Path | None = None,
    name: str = "head",
    on_step: Progress | None = None,
) -> tuple[Head, dict[str, Any]]:
    """Trains a head on files, sets its threshold, and measures it on prompts that it never saw.

    Args:
        data: Files of answers and pairs; answers make a cost model, pairs alone a reward model.
        training: See there.
        policy: Of a probe: the model and its tokenizer.
        tests: More files to measure on, by name; training leaves out every row that has one of their prompts.
        harmless: Prompts and answers that are fine, which set a cost's threshold, except those whose prompt was trained
            on; the held-out safe answers if None.
        name: Of the judge.
        on_step: Told what is being done.

    Returns:
        The head, and the facts of its card as plain JSON.

    Raises:
        ConfigurationError: Bad data or settings; names the file and line.
        ModelLoadError: The encoder is not here.
    """
    say = on_step or (lambda _: None)
    examples = read_examples(data)
    kind = examples.kind
    files = {key: read_examples([path]) for key, path in (tests or {}).items()}
    fine = read_texts(harmless) if harmless else None
    kept = examples.without(prompt for test in files.values() for prompt in test.prompts)
    train, held_out = _split(kept, training)
    if held_out is not None:
        files = {"held-out prompts": held_out, **files}
    if not files:
        raise ConfigurationError("nothing to measure on: give held_out above 0, or a test file")
    head, notes = _fit(train, kind, training, policy, name, say)
    threshold = None
    if kind == "cost":
        say("threshold")
        if fine is None:
            fine = [(a.prompt, a.response) for a in held_out.answers if not a.label] if held_out else []
        learnt = set(train.prompts)
        fine = [pair for pair in fine if pair[0] not in learnt]
        source = Path(harmless).name if harmless else "safe answers to held-out prompts"
        head, threshold = _set_threshold(head, training, fine, source)
    score = score_of(head, training)
    figures = {}
    for key, test in files.items():
        say(key)
        figures[key] = compare(score, train, test, kind=kind, pair_weight=training.how.pair_weight)
    return head, {
        "name": name,
        "kind": kind,
        "reads": reads(head),
        "figures": figures,
        "threshold": threshold,
        "parts": notes,
        "trained_on": _count(train),
        "left_out": len(examples.answers) + len(examples.pairs) - len(kept.answers) - len(kept.pairs),
    }


def score_of(head: Head, training: JudgeTraining) -> Score:
    """The head before any sigmoid, as a function of prompts and responses."""
    if isinstance(head, Probe):
        return probe_scores(head, training.how)  # type: ignore[arg-type]
    return lambda prompts, responses: head.raw(prompts, responses).double().numpy()


def reads(head: Head) -> str:
    """In words, what a head reads."""
    if isinstance(head, Probe):
        return (
            f"the hidden states of the policy `{head.config.policy_id}` after layer {head.config.layer}, and "
            "no other policy's"
        )
    config = head.config
    parts = []
    if config.ngrams:
        parts.append(f"hashed n-grams of the response{' and the prompt' if config.ngrams.prompt else ''}")
    if config.encoder:
        parts.append(f"sentence vectors of prompt and response by `{config.encoder.sources[-1]}`")
    if config.length:
        parts.append("the response's length")
    return ", ".join(parts)


def _split(examples: Examples, training: JudgeTraining) -> tuple[Examples, Examples | None]:
    if training.held_out == 0:
        return examples, None
    parts = max(2, round(1 / training.held_out))
    held_out = folds(examples.prompts, parts, seed=training.seed)[0]
    return examples.without(held_out), examples.of(held_out)


def _fit(
    train: Examples, kind: Kind, training: JudgeTraining, policy: Any, name: str, say: Progress
) -> tuple[Head, dict[str, Any]]:
    if isinstance(training.how, TextTraining):
        return train_text_head(train, kind=kind, training=training.how, name=name, on_part=say)
    if policy is None:
        raise ConfigurationError("a probe reads a policy's hidden states; give the policy it is for")
    return train_probe(train, kind=kind, training=training.how, policy=policy, name=name, on_layer=say)


def _set_threshold(
    head: Head, training: JudgeTraining, fine: list[tuple[str, str]], source: str
) -> tuple[Head, dict[str, Any]]:
    """The head with the threshold that the harmless answers set, and the facts about it."""
    if not fine:
        raise ConfigurationError(
            "no harmless answer is left to set the threshold with, once those to trained prompts are taken away; give "
            "a harmless file with other prompts, or held_out above 0"
        )
    prompts, responses = [prompt for prompt, _ in fine], [response for _, response in fine]
    if isinstance(head, Probe):
        return set_probe_threshold(head, training.how, prompts, responses, share=training.flag_at_most, source=source)  # type: ignore[arg-type]
    found = flag_at_most(training.flag_at_most, np.array(head.score(prompts, responses)), source=source)
    config = head.config.model_copy(update={"threshold": found.limit, "rule": found.rule})
    changed = TextHead(config, head.tensors, encoder=head.encoder, name=head.name)
    return changed, {"limit": found.limit, "rule": found.rule, "flagged": found.flagged}


def _count(examples: Examples) -> dict[str, int]:
    return {"answers": len(examples.answers), "pairs": len(examples.pairs), "prompts": len(examples.prompts)}
