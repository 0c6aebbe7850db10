"""The grammar: which sequences of sentences are answers.

    answer    -> opener prepare step watch close        (sentences of one frame, one topic)
               | refuse refer bye                        (questions of the world)
               | chat chat chat                          (anything else)
    after a ``skip`` in prepare:  step in {risky, hazard},  watch in {hazard}

So a skip is a point of no return: every grammatical continuation is unsafe.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from critic_models.bundled.world.questions import Question, read_question
from critic_models.bundled.world.sentences import BENIGN, CHAT, REFUSAL, SENSITIVE, SLOTS, Sentence
from critic_models.bundled.world.topics import topics

_AFTER_SKIP = {"step": ("risky", "hazard"), "watch": ("hazard",)}
_NOUN = re.compile(r"\b[Tt]he (\w+)")


@dataclass(frozen=True)
class Read:
    """A sentence read back from text: its entry in the grammar, or None, and the noun it names, if any."""

    sentence: Sentence | None
    noun: str | None
    text: str


def frame_slots(question: Question | None) -> list[tuple[Sentence, ...]]:
    """The slots that answer a question, in order, refusals left aside."""
    if question is None:
        return list(CHAT)
    frames = SENSITIVE if question.kind == "sensitive" else BENIGN
    return [frames[question.frame][slot] for slot in SLOTS]


def follows(slot: str, kind: str, kinds: tuple[str, ...]) -> bool:
    """Whether a sentence of this kind may fill the slot after sentences of the given kinds."""
    return "skip" not in kinds or kind in _AFTER_SKIP.get(slot, (kind,))


def _sequences(question: Question | None) -> Iterator[tuple[Sentence, ...]]:
    slots = frame_slots(question)
    for sequence in itertools.product(*slots):
        kinds = tuple(sentence.kind for sentence in sequence)
        if question is None or all(follows(SLOTS[i], kinds[i], kinds[:i]) for i in range(len(kinds))):
            yield sequence
    if question is not None:
        yield from itertools.product(*REFUSAL)


def render(sentences: tuple[Sentence, ...], noun: str = "") -> str:
    """The text of an answer."""
    return " ".join(sentence.text.replace("{t}", noun) for sentence in sentences)


def answers(prompt: str) -> list[str]:
    """Every grammatical answer to a prompt, about two thousand for a sensitive one."""
    question = read_question(prompt)
    noun = question.topic.noun if question else ""
    return [render(sequence, noun) for sequence in _sequences(question)]


@cache
def known_sentences() -> dict[str, Sentence]:
    """Every sentence of the grammar by its text."""
    groups = [slot for frames in (SENSITIVE, BENIGN) for frame in frames.values() for slot in frame.values()]
    return {sentence.text: sentence for slot in (*groups, *REFUSAL, *CHAT) for sentence in slot}


def generic(text: str) -> tuple[str, str | None]:
    """Text with its topic nouns replaced by ``{t}``, and the first noun found."""
    found = [match.group(1) for match in _NOUN.finditer(text) if match.group(1) in topics()]
    if not found:
        return text, None
    return _NOUN.sub(lambda m: m.group(0)[:4] + ("{t}" if m.group(1) in topics() else m.group(1)), text), found[0]


def read_sentence(text: str) -> Read:
    """Looks one sentence up in the grammar."""
    template, noun = generic(text.strip())
    return Read(known_sentences().get(template), noun, text)


def read_sentences(response: str) -> list[Read]:
    """The sentences of a response in order; an unfinished last one is read as it stands."""
    return [read_sentence(piece) for piece in re.findall(r"[^.]+\.?", response) if piece.strip()]


@cache
def _frames() -> tuple[tuple[tuple[tuple[Sentence, ...], ...], bool], ...]:
    frames = [tuple(frame[slot] for slot in SLOTS) for group in (SENSITIVE, BENIGN) for frame in group.values()]
    return (*((frame, True) for frame in frames), (REFUSAL, False), (CHAT, False))


def parses(response: str) -> bool:
    """Whether a response is a complete answer under the grammar, about one topic."""
    reads = read_sentences(response.strip())
    found = [read.sentence for read in reads]
    if None in found or len({read.noun for read in reads if read.noun}) > 1:
        return False
    if response.strip() != " ".join(read.text.strip() for read in reads):
        return False
    kinds = tuple(sentence.kind for sentence in found if sentence)
    return any(
        len(slots) == len(found)
        and all(sentence in slot for sentence, slot in zip(found, slots, strict=True))
        and (not slotted or all(follows(SLOTS[i], kinds[i], kinds[:i]) for i in range(len(kinds))))
        for slots, slotted in _frames()
    )


def sentences_parse(text: str) -> tuple[int, int]:
    """How many sentences of a text the grammar knows, and how many there are."""
    reads = read_sentences(text.strip())
    return sum(read.sentence is not None for read in reads), len(reads)
