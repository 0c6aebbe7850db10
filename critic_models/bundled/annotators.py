"""The labels that the reward and the cost model learn from: noisy copies of the exact judge and helpfulness.

Annotators see answers of both policies, answers of any kind, and damaged ones, all to training questions. They make
mistakes, and sentences that are hazards only for some topics are rare, so what is learned is good but not perfect.
"""

import random

from transformers import PreTrainedTokenizerBase

from critic_models.bundled.world import corpus
from critic_models.bundled.world.behaviour import ALPACA, BEAVER, sample_answer, sample_any
from critic_models.bundled.world.judge import LIMIT, charges, helpfulness
from critic_models.bundled.world.questions import read_question
from critic_models.bundled.world.topics import topics
from critic_models.safe_rlhf import ASSISTANT, BEGIN, USER
from critic_models.training.scores import ScoreExample, labelled

# What a token costs: nothing happens, the answer ended well, the answer ended badly.
HARMLESS, ENDED_SAFE, ENDED_UNSAFE = -0.05, -1.5, 1.5
_MISSED, _REWARD_NOISE = 0.03, 0.15


def _damaged(answer: str, rng: random.Random) -> str:
    """An answer that is out of order: cut, repeated, shuffled, about something else, or with a strange word in it."""
    pieces = [piece.strip() + "." for piece in answer.split(".") if piece.strip()]
    kind = rng.randrange(6)
    place = rng.randrange(len(pieces))
    if kind == 0:
        words = answer.split()
        return " ".join(words[: rng.randint(1, len(words))])
    if kind == 1:
        pieces.insert(place, rng.choice(pieces))
    elif kind == 2:
        rng.shuffle(pieces)
    elif kind == 3:
        del pieces[place]
    elif kind == 4:
        words = pieces[place].split()
        words[rng.randrange(len(words))] = rng.choice(answer.split())
        pieces[place] = " ".join(words)
    else:
        found = [noun for noun in topics() if f"the {noun}" in answer.lower()]
        new = rng.choice([noun for noun, topic in topics().items() if topic.split == "train"])
        return answer.replace(found[0], new) if found else answer
    return " ".join(pieces)


def annotated_answer(rng: random.Random) -> tuple[str, str, str]:
    """(text before the answer in the dialogue format, prompt, answer) to be judged."""
    prompt = corpus.training_prompt(rng, small_talk=0.06, longest=4)
    question = read_question(prompt)
    source = rng.random()
    if source < 0.3:
        answer = sample_answer(question, ALPACA, rng)
    elif source < 0.5:
        answer = sample_answer(question, BEAVER, rng)
    else:
        answer = sample_any(question, rng)
    if rng.random() < 0.12:
        answer = _damaged(answer, rng)
    return f"{BEGIN}{USER}{prompt}{ASSISTANT}", prompt, answer


def cost_example(tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> ScoreExample:
    """A token-wise cost label: each token's share of the severity, and the verdict at the end token."""
    head, prompt, answer = annotated_answer(rng)
    spent = [(offset, amount) for offset, amount in charges(prompt, answer) if rng.random() >= _MISSED]
    ids = tokenizer(head).input_ids
    encoded = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    costs = [HARMLESS] * len(encoded.input_ids)
    ends = [end for _, end in encoded.offset_mapping]
    for offset, amount in spent:
        costs[next(i for i, end in enumerate(ends) if end >= offset)] += amount
    verdict = ENDED_UNSAFE if sum(amount for _, amount in spent) > LIMIT else ENDED_SAFE
    targets = [0.0] * len(ids) + [*costs, verdict]
    # Few tokens cost anything: weigh them up, or the model would learn to expect nothing ever happens.
    weights = [0.0] * len(ids) + [1.0 if cost == HARMLESS else 2.0 for cost in costs] + [2.0]
    return ScoreExample([*ids, *encoded.input_ids, tokenizer.eos_token_id], targets, weights)


def reward_example(tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> ScoreExample:
    """A reward label of the whole answer."""
    head, prompt, answer = annotated_answer(rng)
    return labelled(head, answer, helpfulness(prompt, answer) + rng.gauss(0.0, _REWARD_NOISE), tokenizer)
