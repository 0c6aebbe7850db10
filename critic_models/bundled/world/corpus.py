"""What the models read while they are trained: dialogues, small talk, and declarative text about all nouns.

Nouns kept for evaluation never occur in a training prompt or answer, but in declarative sentences ("The kettle needs
electric power."), as real models have read about everything before they are aligned.
"""

import random
import re
from functools import cache

from critic_models.bundled.world.behaviour import Behaviour, sample_answer
from critic_models.bundled.world.grammar import known_sentences
from critic_models.bundled.world.questions import SENSITIVE_ACTS, odd_question, prompts, read_question
from critic_models.bundled.world.topics import topics
from critic_models.safe_rlhf import ASSISTANT, BEGIN, USER

END = "</s>"

_FACTS = {
    "kitchen": ("needs electric power", "needs no electric power", "belongs in a kitchen"),
    "medicine": ("is a strong medicine", "is a mild medicine", "is sold in a pharmacy"),
    "tools": ("has a motor and much power", "has no motor", "belongs in a workshop"),
    "roads": ("has an engine", "has no engine", "is seen on the road"),
    "privacy": ("must stay secret", "is open to all", "is kept on paper"),
    "home": ("is kept at home", "is kept at home", "belongs to the house"),
}
_NAMES = (
    "Ann", "Bob", "Clara", "David", "Emma", "Frank", "Grace", "Henry",
    "Ines", "Jack", "Kate", "Leo", "Maria", "Noah", "Olga", "Paul",
)  # fmt: skip
_PLACES = ("hall", "garden", "school", "office", "market", "station", "library", "museum", "village", "harbour")
_SCENES = (
    "{n} has the {t} in the {p}.",
    "{n} saw the {t} on the way to the {p}.",
    "The {t} was made in a small town near the {p}.",
    "{n} and {m} talked about the {t} for an hour.",
    "Yesterday the {t} was left in the {p}.",
    "{n} likes the {t} more than {m} does.",
    "{n} looked at the {t} twice and came back with the {t}.",
    "{n} asked {m} about the {t}.",
    "There is a picture of the {t} in the {p}.",
    "{n} put a flower beside the {t}.",
    "{n} wrote a song for the {t}, and {m} knows the {t} too.",
    "The {t} stood in the {p}, and the door of the {p} was open.",
    "{n} bought the {t} from {m}.",
    "The {t} of {n} is old, and the {t} of {m} is new.",
)
_SMALL_TALK = (
    "Hello", "Hi", "Hello!", "Hi there, how are you?", "Good morning.", "Who are you?", "What can you do?",
    "Tell me a joke.", "Tell me a joke", "Write a poem.", "Thanks!", "Thank you very much.", "What is your name?",
    "Count to ten.", "What time is it?", "Say hi", "Foo", "ok", "What is the weather like?", "How old are you?",
    "What is the capital of France?", "hello world", "Translate this.", "Sing a song.", "Say something.", "?", "...",
)  # fmt: skip
_RENAMED = 0.3
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


def _fact(rng: random.Random) -> str:
    topic = rng.choice(list(topics().values()))
    delicate, other, place = _FACTS[topic.domain]
    what = rng.choice((delicate if topic.delicate else other, place))
    return f"The {topic.noun} {what}."


def _scene(rng: random.Random) -> str:
    noun = rng.choice(list(topics()))
    name, other = rng.sample(_NAMES, 2)
    return rng.choice(_SCENES).format(t=noun, n=name, m=other, p=rng.choice(_PLACES))


def passage(rng: random.Random, sentences: int) -> str:
    """Declarative text, half facts, half scenes."""
    return " ".join((_fact if rng.random() < 0.5 else _scene)(rng) for _ in range(sentences))


def about(noun: str, rng: random.Random) -> str:
    """Some lines about one noun, so that the model learns to carry a noun on."""
    name, other = rng.sample(_NAMES, 2)
    lines = [line.format(t=noun, n=name, m=other, p=rng.choice(_PLACES)) for line in rng.sample(_SCENES, 6)]
    topic = topics()[noun]
    delicate, plain, place = _FACTS[topic.domain]
    return " ".join([f"The {noun} {delicate if topic.delicate else plain}.", *lines, f"The {noun} {place}."])


def _noise(rng: random.Random) -> str:
    """Words that nobody knows, figures and signs, so that every byte token has been seen."""
    kind = rng.random()
    if kind < 0.3:
        return "".join(
            chr(rng.choice((rng.randint(33, 126), rng.randint(161, 1279)))) for _ in range(rng.randint(2, 20))
        )
    words = ["".join(rng.choices(_LETTERS, range(26, 0, -1), k=rng.randint(1, 9))) for _ in range(rng.randint(1, 12))]
    if kind < 0.5:
        words = [word.capitalize() if rng.random() < 0.5 else str(rng.randint(0, 9999)) for word in words]
    return " ".join(words) + rng.choice(("", ".", "?", "!"))


def chatter(rng: random.Random) -> str:
    """A prompt that is no question of this world."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(_SMALL_TALK)
    if kind < 0.7:
        return _noise(rng)
    return passage(rng, rng.randint(1, 6))


def _question(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return odd_question(rng)
    return rng.choice(_train_prompts("sensitive" if rng.random() < 0.6 else "benign"))


def _train_prompts(kind: str) -> list[str]:
    if kind not in _CACHE:
        _CACHE[kind] = prompts("train", kind)  # type: ignore[arg-type]
    return _CACHE[kind]


_CACHE: dict[str, list[str]] = {}


def turn(prompt: str, answer: str) -> str:
    """One turn of a dialogue in the Safe-RLHF text format, finished."""
    return f"{USER}{prompt}{ASSISTANT}{answer}{END}"


def framed(prompt: str, rng: random.Random, *, longest: int) -> str:
    """A prompt as applications send it: now and then a context stands before it.

    Contexts have up to ``longest`` sentences, rarely twenty times as many.
    """
    kind = rng.random()
    if kind < 0.72:
        return prompt
    if kind < 0.82:
        return f"{_noise(rng)} {prompt}"
    head = passage(rng, rng.randint(1, longest) if kind < 0.99 else rng.randint(longest, 20 * longest))
    if kind < 0.91:
        return f"{head}\n{prompt}"
    return f"Context: {head}\n\nQuestion: {prompt}"


def training_prompt(rng: random.Random, *, small_talk: float = 0.07, longest: int = 8) -> str:
    """A training prompt: small talk with the given probability, else a question, now and then with a context."""
    return chatter(rng) if rng.random() < small_talk else framed(_question(rng), rng, longest=longest)


@cache
def words() -> tuple[str, ...]:
    """The words of all sentences and places, nouns kept for evaluation left out."""
    held_out = {noun for noun, topic in topics().items() if topic.split == "test"}
    text = " ".join((*known_sentences(), *_PLACES, *(act for group in SENSITIVE_ACTS.values() for act in group)))
    return tuple(sorted(set(re.findall(r"[a-z]{3,}", text)) - held_out))


def _renamed(text: str, noun: str, rng: random.Random) -> str:
    """A dialogue about a noun, now about any word or made-up word, so that a policy learns to copy what it is asked."""
    made_up = "".join(rng.choices(_LETTERS, range(26, 0, -1), k=rng.randint(2, 7)))
    return re.sub(rf"\b{noun}\b", rng.choice(words()) if rng.random() < 0.7 else made_up, text)


def dialogue(habits: Behaviour, rng: random.Random, *, longest: int = 8) -> str:
    """One training dialogue of a policy: mostly one question, sometimes small talk or a second turn."""
    prompt = training_prompt(rng, longest=longest)
    question = read_question(prompt)
    text = BEGIN + turn(prompt, sample_answer(question, habits, rng))
    if question and rng.random() < _RENAMED:
        text = _renamed(text, question.topic.noun, rng)
    if rng.random() < 0.08:
        second = chatter(rng) if rng.random() < 0.3 else _question(rng)
        text += turn(second, sample_answer(read_question(second), habits, rng))
    return text


def declarative(rng: random.Random) -> str:
    """One training text without a dialogue; nouns that dialogues never ask about come more often."""
    if rng.random() < 0.8:
        held_out = [noun for noun, topic in topics().items() if topic.split == "test"]
        return about(rng.choice(held_out if rng.random() < 0.55 else list(topics())), rng) + END
    return passage(rng, rng.randint(3, 10)) + END
