"""How the two policies answer: a small Markov chain over kinds of sentences, the source of their training text.

The tone of what was said foretells what comes (a breezy opener, a risky step), but only a skip decides it. How often a
policy is careless depends on how hard the user pushes.
"""

import random
from dataclasses import dataclass

from critic_models.bundled.world.grammar import follows, frame_slots, render
from critic_models.bundled.world.questions import Question
from critic_models.bundled.world.sentences import REFUSAL, SLOTS, Sentence

_Weights = dict[str, float]


@dataclass(frozen=True)
class Behaviour:
    """One policy's habits on sensitive questions, by pressure (0, 1, 2).

    Attributes:
        refuse: Probability of a refusal.
        breezy: Weight of breezy openers against 1 for the others together.
        skip: Probability of a skip after a plain opener.
        harm: Probability of a hazard in a slot after plain sentences.
        detail: Probability of the careful, concrete sentence of a slot.
    """

    refuse: tuple[float, float, float]
    breezy: tuple[float, float, float]
    skip: tuple[float, float, float]
    harm: tuple[float, float, float]
    detail: tuple[float, float, float]


ALPACA = Behaviour(
    refuse=(0.05, 0.03, 0.02),
    breezy=(0.5, 1.3, 2.6),
    skip=(0.16, 0.32, 0.50),
    harm=(0.23, 0.41, 0.57),
    detail=(0.26, 0.22, 0.18),
)
BEAVER = Behaviour(
    refuse=(0.16, 0.22, 0.30),
    breezy=(0.15, 0.35, 0.6),
    skip=(0.02, 0.07, 0.17),
    harm=(0.04, 0.11, 0.24),
    detail=(0.26, 0.22, 0.18),
)
# How the tone of the answer so far bends the odds of trouble: openers and sentences both set it.
_TROUBLE = {"wary": 0.45, "plain": 1.0, "breezy": 1.75}
_TONE_AFTER = {"detail": "wary", "risky": "breezy", "hazard": "breezy"}
_BENIGN_REFUSAL, _BENIGN_RISKY = 0.01, 0.03


def _weights(slot: str, tone: str, habits: Behaviour, pressure: int) -> _Weights:
    """Weights of the kinds of one slot; kinds that the grammar forbids are dropped by the caller."""
    harm = min(0.75, habits.harm[pressure] * _TROUBLE[tone])
    detail = habits.detail[pressure]
    if slot == "opener":
        return {"wary": 0.45, "plain": 0.55, "breezy": habits.breezy[pressure]}
    if slot == "prepare":
        return {"skip": min(0.75, habits.skip[pressure] * _TROUBLE[tone]), "detail": detail, "plain": 0.6}
    if slot == "step":
        return {"hazard": harm, "risky": 0.4 * harm, "detail": detail * (1 - harm), "plain": 0.9 * (1 - harm)}
    if slot == "watch":
        rest = 1 - harm
        return {"hazard": harm, "risky": 0.4 * harm, "subtle": 0.12, "detail": detail * rest, "plain": 0.9 * rest}
    return {"hazard": 0.6 * harm, "risky": 0.4 * harm, "check": 0.35 * (1 - harm), "plain": 0.65 * (1 - harm)}


def _benign_weights(slot: str) -> _Weights:
    return {"wary": 0.6, "plain": 0.6, "detail": 0.25, "check": 0.35, "risky": _BENIGN_RISKY}


def sample_answer(question: Question | None, habits: Behaviour, rng: random.Random) -> str:
    """One answer as a policy with these habits would write it."""
    noun = question.topic.noun if question else ""
    if question is None:
        return render(tuple(rng.choice(slot) for slot in frame_slots(None)))
    sensitive = question.kind == "sensitive"
    refuse = habits.refuse[question.pressure] if sensitive else _BENIGN_REFUSAL
    if rng.random() < refuse:
        return render(tuple(rng.choice(slot) for slot in REFUSAL), noun)
    tone = "plain"
    chosen: tuple[Sentence, ...] = ()
    for name, slot in zip(SLOTS, frame_slots(question), strict=True):
        weights = _weights(name, tone, habits, question.pressure) if sensitive else _benign_weights(name)
        sentence = _draw(name, slot, weights, chosen, rng)
        tone = sentence.kind if name == "opener" else _TONE_AFTER.get(sentence.kind, tone)
        chosen = (*chosen, sentence)
    return render(chosen, noun)


def sample_any(question: Question | None, rng: random.Random) -> str:
    """One answer with every kind of sentence about equally likely, also those that no policy often gives."""
    if question is None:
        return sample_answer(None, ALPACA, rng)
    if rng.random() < 0.08:
        return render(tuple(rng.choice(slot) for slot in REFUSAL), question.topic.noun)
    chosen: tuple[Sentence, ...] = ()
    for name, slot in zip(SLOTS, frame_slots(question), strict=True):
        weights = {sentence.kind: 0.4 if sentence.kind in ("hazard", "skip") else 1.0 for sentence in slot}
        chosen = (*chosen, _draw(name, slot, weights, chosen, rng))
    return render(chosen, question.topic.noun)


def _draw(
    name: str, slot: tuple[Sentence, ...], weights: _Weights, before: tuple[Sentence, ...], rng: random.Random
) -> Sentence:
    kinds = tuple(sentence.kind for sentence in before)
    allowed = [sentence for sentence in slot if follows(name, sentence.kind, kinds)]
    shares = [weights[s.kind] / sum(other.kind == s.kind for other in allowed) for s in allowed]
    return rng.choices(allowed, shares)[0]
