import builtins
import json

import numpy as np
import pytest
import torch

from critic_models.errors import ConfigurationError
from critic_models.judges import load_judge
from critic_models.judges.heads import NgramConfig, TextHead
from critic_models.training.heads.card import write_card
from critic_models.training.heads.data import Examples, Pair
from critic_models.training.heads.linear import Texts, cross_fitted, fit
from critic_models.training.heads.measure import measure, pair_accuracy
from critic_models.training.heads.probe import PATIENCE, ProbeTraining, running
from critic_models.training.heads.text import TextTraining
from critic_models.training.heads.threshold import flag_at_most
from critic_models.training.heads.train import JudgeTraining, score_of, train_judge
from tests.critic_models.training.heads.conftest import answers, pairs, write
from tests.kit.tiny import tiny_llama
from tests.kit.tokenizer import byte_tokenizer

WORDS = JudgeTraining(how=TextTraining(ngrams=NgramConfig(buckets=4096)), flag_at_most=0.2)


def test_a_cost_head_is_trained_measured_and_saved(answers_file, tmp_path):
    head, facts = train_judge([answers_file], training=WORDS)
    mine = facts["figures"]["held-out prompts"]
    assert mine["judge"]["auc"] == 1.0
    assert mine["judge"]["same_prompt_accuracy"] == 1.0
    assert mine["judge"]["prompts"] == 6
    assert mine["tfidf"]["auc"] == 1.0
    assert 0.2 < mine["longer"]["auc"] < 0.8
    assert facts["trained_on"] == {"answers": 48, "pairs": 0, "prompts": 24}
    assert facts["threshold"]["flagged"] <= 0.2
    head.save_pretrained(tmp_path / "head")
    card = write_card(facts, tmp_path / "head").read_text()
    assert "| this head | 1.000 |" in card
    assert "at most 20 % of 6 harmless answers" in card
    assert json.loads((tmp_path / "head" / "card.json").read_text()) == facts
    judge = load_judge(tmp_path / "head", kind="cost")
    unsafe, safe = judge.score(["q", "q"], ["alpha stab", "alpha sorry"])
    assert safe < judge.default_limit < unsafe
    assert judge.default_limit == facts["threshold"]["limit"]


def test_a_reward_head_is_trained_from_pairs_and_shows_what_length_alone_gives(pairs_file):
    head, facts = train_judge([pairs_file], training=JudgeTraining(how=TextTraining(length=True)))
    assert facts["kind"] == head.config.kind == "reward"
    assert facts["figures"]["held-out prompts"]["judge"]["pair_accuracy"] == 1.0
    assert 0.1 < facts["figures"]["held-out prompts"]["longer"]["pair_accuracy"] < 0.9
    assert facts["threshold"] is None
    better, worse = head.score(["ask", "ask"], ["word please", "word now"])
    assert better > worse


def test_pairs_teach_a_cost_that_the_rejected_answer_is_the_worse_one(answers_file, tmp_path):
    more = write(
        tmp_path / "more.jsonl", [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs(40)]
    )
    head, _ = train_judge([answers_file, more], training=WORDS)
    polite, plain, unsafe = head.raw(["p"] * 3, ["word please", "word now", "alpha stab"])
    assert plain < polite < unsafe


def test_an_encoder_and_words_are_weighed_together(answers_file, encoder_folder):
    how = TextTraining(ngrams=NgramConfig(buckets=4096), encoder=(encoder_folder(),))
    head, facts = train_judge([answers_file], training=JudgeTraining(how=how, flag_at_most=0.2))
    assert set(facts["parts"]) == {"ngrams", "encoder"}
    assert facts["figures"]["held-out prompts"]["judge"]["auc"] == 1.0
    assert isinstance(head, TextHead)


def test_no_prompt_of_a_test_file_is_trained_on(answers_file, tmp_path):
    test = write(tmp_path / "test.jsonl", answers(30)[:10])
    _, facts = train_judge([answers_file], training=WORDS, tests={"mine": test})
    assert facts["left_out"] == 10
    assert facts["trained_on"]["prompts"] == 20
    assert set(facts["figures"]) == {"held-out prompts", "mine"}
    with pytest.raises(ConfigurationError, match="nothing to measure on"):
        train_judge([answers_file], training=JudgeTraining(held_out=0), harmless=test)


def test_the_same_files_give_the_same_head(answers_file):
    first, second = (train_judge([answers_file], training=WORDS)[0] for _ in range(2))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def test_harmless_answers_to_trained_prompts_set_no_threshold(answers_file, tmp_path):
    fine = write(tmp_path / "fine.jsonl", [row for row in answers(30) if not row["label"]] + answers(20, seed=5))
    _, facts = train_judge([answers_file], training=WORDS, harmless=fine)
    assert "of 46 harmless answers (fine.jsonl)" in facts["threshold"]["rule"]  # 6 held out, 40 of other prompts


def test_a_threshold_flags_no_more_than_its_rule_says():
    scores = np.arange(100) / 100
    found = flag_at_most(0.05, scores, source="made")
    assert (found.limit, found.flagged) == (0.94, 0.05)
    assert flag_at_most(0.05, np.ones(100), source="made").flagged == 0
    with pytest.raises(
        ConfigurationError, match=r"is 0.05, and 10 harmless answers \(.*\) cannot show such a share; give at least 20"
    ):
        flag_at_most(0.05, scores[:10], source="made")
    with pytest.raises(ConfigurationError, match=r"flag_at_most is 1\.5"):
        JudgeTraining(flag_at_most=1.5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**row, "label": 1} for row in answers(10)], "all labels are 1; give both safe"),
        (answers(4), "4 prompts cannot be split into 5 parts"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(rows, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        train_judge([write(tmp_path / "rows.jsonl", rows)], training=WORDS)


def test_every_score_of_cross_fitting_is_by_a_model_that_never_saw_the_prompt():
    examples = Examples(pairs=[Pair(f"p{index}", f"c{index}", f"r{index}") for index in range(6)])
    texts = Texts(examples, "reward")
    features = np.eye(12)  # every text has a feature of its own: nothing carries over
    assert cross_fitted(texts, features, [["p0", "p1"], ["p2", "p3"], ["p4", "p5"]], strength=10.0) == pytest.approx(0)
    seen = fit(texts.design(features), strength=10.0)(features)
    assert (seen[:6] > seen[6:]).all()


def test_same_prompt_accuracy_counts_pairs_of_one_prompt_only():
    found = pair_accuracy(["a", "a", "a", "b"], [1, 0, 0, 1], np.array([2.0, 1.0, 2.0, -9.0]))
    assert (found.right, found.pairs) == (0.75, 2)


def test_a_probe_is_trained_on_the_layer_that_tells_and_flags_along_the_answer(tmp_path):
    tokenizer = byte_tokenizer()
    policy = (tiny_llama(tokenizer).requires_grad_(False), tokenizer)
    how = ProbeTraining(policy_id="tiny", layers=(1, 2), template="Q: {prompt} A:{response}", max_tokens=40)
    training = JudgeTraining(how=how, flag_at_most=0.2)
    data = write(tmp_path / "data.jsonl", answers(30))
    probe, facts = train_judge([data], training=training, policy=policy)
    assert facts["figures"]["held-out prompts"]["judge"]["auc"] > 0.75
    losses = {name: part["loss"] for name, part in facts["parts"].items()}
    assert losses[f"layer {probe.config.layer}"] == min(losses.values())
    fine = [row for row in answers(40, seed=7) if not row["label"]]
    paths = [along(probe, row) for row in fine]
    assert np.mean([path.max() > probe.default_limit for path in paths]) < 0.6
    bad = [along(probe, row) for row in answers(40, seed=7) if row["label"]]
    assert np.mean([path.max() for path in bad]) > np.mean([path.max() for path in paths])
    mean = score_of(probe, training)([fine[0]["prompt"]], [fine[0]["response"]])[0]
    assert mean == pytest.approx(paths[0][-1] / len(paths[0]) + probe.config.threshold, abs=1e-4)
    with pytest.raises(ConfigurationError, match="pairs alone make a reward model, and a probe is a cost model"):
        train_judge([write(tmp_path / "pairs.jsonl", pairs(20))], training=training, policy=policy)


def along(probe, row):
    """The sum of token costs after each token, as the cumulative accounting spends it."""
    head = probe.encode(row["prompt"], "", finished=False)["input_ids"]
    ids = torch.tensor([probe.encode(row["prompt"], row["response"], finished=True)["input_ids"][: len(head) + 40]])
    return probe.score_tokens(ids, torch.ones_like(ids))[0, len(head) :].double().cumsum(0).numpy()


def test_the_budget_is_the_patience_that_the_threshold_was_set_with():
    scores, usual, threshold = torch.tensor([3.0, -1.0, 2.0, 0.5]), -0.5, 0.1
    budget = PATIENCE * (threshold - usual)
    spent = (scores.double() - threshold).cumsum(0)
    assert ((running(scores, usual) > threshold) == (spent > budget)).all()
    long = torch.full((60,), 0.3)
    assert ((running(long, usual) > threshold) == ((long.double() - threshold).cumsum(0) > budget)).all()
    assert bool(running(long, usual)[-1] > threshold)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    texts = Texts(Examples(pairs=[Pair("p", "c", "r"), Pair("q", "c", "r")]), "reward")
    with pytest.raises(ConfigurationError, match=r"inferenceguard\[training\]"):
        fit(texts.design(np.eye(4)), strength=1.0)


def test_measuring_pairs_of_a_cost_counts_the_rejected_answer_as_the_costlier():
    examples = Examples(pairs=[Pair("p", "calm", "wild"), Pair("q", "calm", "wild")])

    def score(prompts, responses):
        return np.array([float(text == "wild") for text in responses])

    assert measure(score, examples, kind="cost")["pair_accuracy"] == 1.0
    assert measure(score, examples, kind="reward")["pair_accuracy"] == 0.0
