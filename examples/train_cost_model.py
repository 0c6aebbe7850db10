"""Train a small cost model on labelled dialogues and preference pairs, and compare it with a plain baseline.

    python examples/train_cost_model.py DATA [--out FOLDER]

DATA holds DiaSafety's ``diasafety_train.json`` and ``diasafety_val.json`` and, from hh-rlhf,
``hh_rlhf_harmless_base_test.jsonl.gz``. The model is made from nothing on the CPU in a few minutes: a tokenizer, a
language model of the dialogues, then its body with a score head, which learns from pairs (rejected costs more than
chosen) and from labels (unsafe is 1). The result is a checkpoint that ``cost_model=`` accepts.
"""

import argparse
import gzip
import json
import random
import re
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from critic_models.bundled.tokenizer import train_tokenizer
from critic_models.judges import ScoreJudge
from critic_models.judges.score import TEXT
from critic_models.score_models import ScoreModel
from critic_models.training.metrics import auc
from critic_models.training.policy import TrainingPlan, train_policy
from critic_models.training.scores import epochs, labelled, preferred, train_score_model

FILES = ("diasafety_train.json", "diasafety_val.json", "hh_rlhf_harmless_base_test.jsonl.gz")


def prompt_text(prompt):
    return TEXT.format(prompt=prompt, response="")


def read_pairs(path):
    """(prompt, chosen, rejected) of dialogues that differ in the last turn; the prompt is the human turn before it."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            pair = json.loads(line)
            sides = [re.split(r"\n\n(?:Human|Assistant): ", pair[side]) for side in ("chosen", "rejected")]
            if sides[0][:-1] == sides[1][:-1] and len(sides[0]) > 2:
                yield sides[0][-2], sides[0][-1], sides[1][-1]


def train(rows, pairs, *, steps, seed):
    """The cost model and its tokenizer; ``steps`` of language, preference and label training."""
    torch.manual_seed(seed)
    exchanges = [(row["context"], row["response"]) for row in rows] + [pair[:2] for pair in pairs]
    tokenizer = train_tokenizer((f"{prompt} {response}" for prompt, response in exchanges), vocabulary=4096)
    body = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip

    def told(name, total):
        return lambda step, loss: step % 100 == 0 and print(f"{name} {step}/{total}: loss {loss:.3f}", file=sys.stderr)

    def language(rng):
        prompt, response = rng.choice(exchanges)
        ids = tokenizer(TEXT.format(prompt=prompt, response=response)).input_ids[:256]
        return ids, [1.0] * len(ids)

    policy = train_policy(
        LlamaForCausalLM(body), language, TrainingPlan(steps[0], batch_tokens=4096), seed=seed,
        on_step=told("language", steps[0]),
    )  # fmt: skip
    model = ScoreModel.build(body, score_type="cost")
    model.body.load_state_dict(policy.model.state_dict())
    ranked = [preferred(prompt_text(prompt), rejected, chosen, tokenizer) for prompt, chosen, rejected in pairs]
    ranked = [pair for pair in ranked if max(len(pair.ids), len(pair.worse)) <= 256]
    gentle = {"batch_tokens": 4096, "learning_rate": 1e-3, "matrix_rate": 3e-3, "weight_decay": 0.1}
    train_score_model(
        model, epochs(ranked), TrainingPlan(steps[1], **gentle), objective="prefer", seed=seed,
        on_step=told("preference", steps[1]),
    )  # fmt: skip
    labels = [
        labelled(prompt_text(row["context"]), row["response"], float(row["label"] == "Unsafe"), tokenizer)
        for row in rows
    ]
    train_score_model(
        model, epochs([one for one in labels if len(one.ids) <= 256]), TrainingPlan(steps[2], **gentle),
        objective="classify", seed=seed, on_step=told("labels", steps[2]),
    )  # fmt: skip
    return model, tokenizer


def baseline(rows, held_out):
    """Log-odds of unsafe by TF-IDF and logistic regression; needs scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def texts(part):
        return [f"{row['context']} [SEP] {row['response']}" for row in part]

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    classifier = make_pipeline(words, LogisticRegression(max_iter=1000))
    classifier.fit(texts(rows), [row["label"] == "Unsafe" for row in rows])
    return torch.tensor(classifier.decision_function(texts(held_out)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, help="where to save the checkpoint")
    parser.add_argument("--steps", type=int, nargs=3, default=(300, 100, 500), help="language, preference, label steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    missing = [name for name in FILES if not (options.data / name).is_file()]
    if missing:
        parser.error(f"{options.data} lacks {', '.join(missing)}")
    rows, held_out = (json.loads((options.data / name).read_text(encoding="utf-8")) for name in FILES[:2])
    pairs = list(read_pairs(options.data / FILES[2]))
    random.Random(options.seed).shuffle(pairs)
    unsafe = torch.tensor([row["label"] == "Unsafe" for row in held_out])

    started = time.process_time()
    model, tokenizer = train(rows, pairs, steps=options.steps, seed=options.seed)
    seconds = time.process_time() - started
    judge = ScoreJudge(model, tokenizer, name="dialogue-cost")
    scores = judge.score(
        [row["context"] for row in held_out],
        [row["response"] for row in held_out],
        finished=[True] * len(held_out),
    )
    if options.out:
        model.save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)
    print(f"trained on {len(rows)} labels and {len(pairs)} pairs in {seconds:.0f} CPU seconds")
    print(f"AUC on {len(held_out)} held-out dialogues: cost model {auc(torch.tensor(scores), unsafe):.3f}", end="")
    try:
        print(f", TF-IDF and logistic regression {auc(baseline(rows, held_out), unsafe):.3f}")
    except ModuleNotFoundError:
        print(" (pip install scikit-learn for the baseline)")


if __name__ == "__main__":
    main()
