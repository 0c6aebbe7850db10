"""An evaluation from prompts to report, interrupted and resumed, on a policy whose answers are known."""

import json

import pytest

from ig_plugins.errors import ConfigurationError, MismatchError
from ig_plugins.research.evaluation.evaluate import Plan, evaluate
from ig_plugins.research.evaluation.oracle import oracle_rewards, score_all
from ig_plugins.research.evaluation.results import ResultStore
from ig_plugins.research.evaluation.runner import measure, run, trials
from ig_plugins.research.methods import Answer, method
from tests.ig_plugins.research.evaluation.conftest import ANSWERS, REWARDS, cost
from tests.kit.contexts import tiny_context

PLAN = Plan(methods=("base", "bon-reward", "bon-augmented", "inferenceguard"), candidates=(4, 8), seeds=(0, 1))


def test_rows_are_paired_measured_afresh_and_judged(context, prompts, verdicts, tmp_path):
    report = evaluate(context.guard, prompts, PLAN, out=tmp_path, verdicts=verdicts)
    labels = ["base", *(f"{name}@{n}" for name in PLAN.methods[1:] for n in (4, 8))]
    assert {row.method for row in report.rows} == set(labels)
    assert len(report.rows) == len(labels) * len(prompts) * 2
    for row in report.rows:
        assert row.reward == pytest.approx(REWARDS[row.text])
        assert row.cost == cost("", row.text)
        assert row.safe == row.safe_at_end == ("bad" not in row.text)
        assert row.unsafe == ("bad" in row.text or row.text == "sly")
    base = {(r.prompt, r.seed): r.text for r in report.rows if r.method == "base"}
    for row in report.rows:
        if row.method.startswith("bon-reward"):
            assert row.reward >= REWARDS[base[row.prompt, row.seed]], "the base answer is among the N"
    guard = [row for row in report.rows if row.family == "inferenceguard"]
    assert all(row.safe for row in guard)
    assert any(row.unsafe for row in guard), "the judge sees what the cost model does not"


def test_two_judges_and_the_harmless_prompts_apart(context, prompts, verdicts, stern, tmp_path):
    """What one judge finds says nothing of what the other finds; and the sensitive prompts are summed up alone."""
    groups = ["harmless", "rude", "rude", "odd"]
    asked = [prompt._replace(group=group) for prompt, group in zip(prompts, groups, strict=True)]
    plan = Plan(methods=("base", "inferenceguard"), candidates=(8,), harmless="harmless")
    report = evaluate(context.guard, asked, plan, out=tmp_path, verdicts=[verdicts, stern])
    for row in report.rows:
        assert row.unsafe == ("bad" in row.text or row.text == "sly")
        assert row.more_unsafe == {"stern": row.text == "no"}
    assert list(report.tables)[:2] == ["all prompts", "all but harmless prompts"]
    assert report.tables["all but harmless prompts"][0].prompts == 3
    base = report.tables["all prompts"][0]
    assert base.more_unsafe["stern"].value == sum(r.text == "no" for r in report.rows if r.method == "base") / 8
    page = (tmp_path / "report.md").read_text()
    assert "| unsafe (judge) | unsafe (stern) |" in page
    again = evaluate(context.guard, asked, plan, out=tmp_path, verdicts=[verdicts, stern])
    assert again.rows == report.rows
    with pytest.raises(MismatchError, match="more_judges"):
        evaluate(context.guard, asked, plan, out=tmp_path, verdicts=[verdicts])
    with pytest.raises(ConfigurationError, match="same name"):
        evaluate(context.guard, asked, plan, out=tmp_path, verdicts=[verdicts, verdicts])
    with pytest.raises(ConfigurationError, match="group 'kind' of harmless ones; groups: harmless, odd, rude"):
        evaluate(context.guard, asked, Plan(harmless="kind"), out=tmp_path, verdicts=[verdicts])


def test_the_shape_of_the_papers_table(context, prompts, tmp_path):
    """Augmented selection is safer than a weak Lagrangian, InferenceGuard is safest."""
    plan = Plan(methods=("base", "bon-lagrangian", "bon-augmented", "inferenceguard"), candidates=(8,), multiplier=0.1)
    report = evaluate(context.guard, prompts, plan, out=tmp_path)
    safe = {each.family: each.safe for each in report.tables["all prompts"]}
    assert safe["base"] < 1.0
    assert safe["bon-lagrangian"] < safe["bon-augmented"] <= safe["inferenceguard"] == 1.0


def test_an_interrupted_run_resumes_to_the_same_rows(context, prompts, verdicts, tmp_path):
    whole = evaluate(context.guard, prompts, PLAN, out=tmp_path / "whole", verdicts=verdicts)

    class Interrupt(Exception):
        pass

    def stop_at(done):
        def progress(stage, at, of):
            if at >= done:
                raise Interrupt

        return progress

    for done in (9, 20):
        with pytest.raises(Interrupt):
            evaluate(context.guard, prompts, PLAN, out=tmp_path / "part", verdicts=verdicts, progress=stop_at(done))
    file = tmp_path / "part" / "results.jsonl"
    file.write_bytes(file.read_bytes() + b'{"method": "base", "fam')
    steps = []
    part = evaluate(
        context.guard,
        prompts,
        PLAN,
        out=tmp_path / "part",
        verdicts=verdicts,
        progress=lambda *step: steps.append(step),
    )
    assert steps[0][1] > 14, "what was answered is not answered again"

    def stripped(rows):
        return sorted((row.model_copy(update={"seconds": 0.0}) for row in rows), key=lambda row: row.key)

    assert stripped(part.rows) == stripped(whole.rows)


def test_more_methods_and_seeds_may_be_added_but_not_another_model(context, prompts, verdicts, tmp_path):
    evaluate(context.guard, prompts, Plan(methods=("base",), seeds=(0,)), out=tmp_path, verdicts=verdicts)
    more = evaluate(context.guard, prompts, PLAN, out=tmp_path, verdicts=verdicts)
    assert len(more.rows) == 7 * len(prompts) * 2
    with pytest.raises(MismatchError, match="different: guard"):
        evaluate(context.guard.with_options(temperature=0.5), prompts, PLAN, out=tmp_path, verdicts=verdicts)
    with pytest.raises(MismatchError, match="different: prompts"):
        evaluate(context.guard, prompts[:2], PLAN, out=tmp_path, verdicts=verdicts)


def test_a_refusal_is_a_safe_row_with_the_reward_of_its_words(context):
    refused = measure(context, ["p"], [Answer(text="bad", token_ids=(), finished=False, blocked=True)])[0]
    assert refused.reward == pytest.approx(0.3)


def test_the_oracle_is_the_best_acceptable_answer(context, prompts, tmp_path):
    best = oracle_rewards(context, prompts, lambda prompt: list(ANSWERS))
    assert best == pytest.approx(dict.fromkeys(range(4), 2.5)), "sly passes the cost model"
    assert oracle_rewards(context, prompts, lambda prompt: ["bad"]) == {}
    plan = Plan(methods=("inferenceguard",), candidates=(64,), seeds=(0,), answers=lambda prompt: list(ANSWERS))
    report = evaluate(context.guard, prompts, plan, out=tmp_path)
    (figures,) = report.tables["all prompts"]
    assert 0.9 < figures.oracle_share <= 1.0
    assert json.loads((tmp_path / "oracle.json").read_text()) == {str(i): 2.5 for i in range(4)}


def test_reading_answers_as_a_tree_is_reading_them_one_by_one():
    """Shared beginnings, one answer inside another, and lengths around the block's."""
    context = tiny_context(search={"max_new_tokens": 40})
    stop = context.policy.tokenizer.eos_token_id
    texts = ["abcdefgh", "abcdefghi", "abcdefghijklmnopq", "abcdefgx", "abc", "zzzzzzzzzzzzzzz", "abcdefgh", "x" * 40]
    found = {candidate.ids: candidate for candidate in score_all(context, "p", texts)}
    assert len(found) == 6, "told once each, and the one that is too long not at all"
    for text in texts[:6]:
        ids = (*context.policy.tokenizer.encode(text), stop)
        alone = measure(context, ["p"], [Answer(text=text, token_ids=ids, finished=True)])[0]
        assert found[ids].reward == pytest.approx(alone.reward, abs=1e-4)
        assert found[ids].spent == pytest.approx(alone.spent, abs=1e-4)
        assert found[ids].safe_throughout == alone.safe_throughout


def test_the_report_is_whole_and_stands_alone(context, prompts, verdicts, tmp_path):
    evaluate(context.guard, prompts, PLAN, out=tmp_path, verdicts=verdicts)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"results.jsonl", "run.json", "summary.json", "report.md", "report.html", "cost.png"} <= names
    assert not [name for name in names if name.endswith(".partial")]
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.replace("https://", "").replace("<code>", ""), "nothing is loaded from elsewhere"
    assert "not reproduced here" in page
    summary = json.loads((tmp_path / "summary.json").read_text())
    groups = summary["figures"]
    assert set(groups) == {"all prompts", "benign prompts", "sensitive prompts"}
    assert groups["all prompts"][0]["answers"] == 8
    assert {gap["metric"] for gap in summary["differences"]} == {"reward", "cost", "safe", "unsafe", "words", "seconds"}
    markdown = (tmp_path / "report.md").read_text()
    assert "| inferenceguard@8 |" in markdown
    assert "Alpaca-7B" in markdown


def test_untrusted_text_cannot_break_out_of_the_page(context, prompts, tmp_path):
    evil = [prompt._replace(group="<script>alert(1)</script>" if i else "plain") for i, prompt in enumerate(prompts)]
    evaluate(context.guard, evil, Plan(methods=("base",)), out=tmp_path)
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_bad_plans_are_named(context, prompts, tmp_path):
    with pytest.raises(ConfigurationError, match="no method 'nonsense'"):
        evaluate(context.guard, prompts, Plan(methods=("nonsense",)), out=tmp_path)
    with pytest.raises(ConfigurationError, match="name each only once"):
        evaluate(context.guard, prompts, Plan(methods=("base", "base")), out=tmp_path)
    with pytest.raises(ConfigurationError, match="1 prompts are both trained and evaluated on"):
        evaluate(context.guard, prompts, Plan(training_prompts=("prompt 1", "x")), out=tmp_path)


def test_the_time_of_a_row_is_that_of_its_own_answer(context, prompts, tmp_path):
    import time

    class Slow:
        def __init__(self, inner):
            self.inner = inner

        def answer(self, asked, *, seeds):
            time.sleep(0.05 * len(asked))
            return self.inner.answer(asked, seeds=seeds)

    runs = trials(context, ["base"], [8])
    slow = type(runs[0])("slow", "slow", 1, Slow(method("base").build(context)))
    rows = run(context, [*runs, slow], prompts, seeds=(0,), store=ResultStore(tmp_path, {}))
    assert min(r.seconds for r in rows if r.method == "slow") >= 0.05
    quick = sorted(r.seconds for r in rows if r.method == "base")
    assert quick[len(quick) // 2] < 0.05
