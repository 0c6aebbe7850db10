"""The report as people see it: all columns in the window, axes that end, figures that differ look different."""

import re

import pytest

from ig_plugins.research.evaluation.metrics import Difference
from ig_plugins.research.evaluation.plots import end_at_100, reward_against_safety, unsafe_against_candidates
from ig_plugins.research.evaluation.prompts import Prompt
from ig_plugins.research.evaluation.report import Report, cells
from ig_plugins.research.evaluation.results import ResultRow
from ig_plugins.research.evaluation.samples import samples
from ig_plugins.research.plotting import new_figure
from tests.kit.browser import browser

__all__ = ["browser"]
EVIL = '</blockquote><script>alert("1")</script>'


def row(method="base", prompt=0, seed=0, **changes):
    family, _, count = method.partition("@")
    standing = {
        "text": f"{method} says {prompt}", "blocked": False, "finished": True, "reward": 1.0, "cost": -1.0,
        "state": 1.0,
        "safe": True, "safe_at_end": True, "judged": -1.0, "unsafe": False, "seconds": 12.345, "tokens": 5,
        "candidate_tokens": 123456, "judge_calls": 120, "judge_tokens": 10, "group": "sensitive prompts of a kind",
    }  # fmt: skip
    return ResultRow(
        method=method, family=family, candidates=int(count or 1), prompt=prompt, seed=seed, **{**standing, **changes}
    )


METHODS = ("base", "bon-lagrangian@128", "beam-augmented@128", "inferenceguard@128", "inferenceguard-critic@128")


def report(**changes):
    rows = [
        row(method, prompt, reward=100.0 + at / 1000 + prompt, unsafe=method == "base" and prompt % 2 == 0, **changes)
        for at, method in enumerate(METHODS)
        for prompt in range(8)
    ]
    prompts = [Prompt(f"prompt {number} {EVIL}", "group") for number in range(8)]
    return Report(
        title="A report",
        facts={"policy": "x"},
        rows=rows,
        limit=0.0,
        prompts=prompts,
        oracle=dict.fromkeys(range(8), 120),
    )


def test_every_column_is_seen_at_1280(browser, tmp_path):
    report().write(tmp_path)
    window = browser.new_page(viewport={"width": 1280, "height": 900})
    window.goto((tmp_path / "report.html").as_uri())
    widths = window.evaluate(
        "[...document.querySelectorAll('.scroll')].map((each) => [each.scrollWidth, each.clientWidth])"
    )
    assert len(widths) == 3
    assert all(needed <= seen for needed, seen in widths), widths
    assert window.evaluate("document.documentElement.scrollWidth") <= 1280
    assert window.locator(".beside").count() == 6
    tops = window.evaluate(
        "[...document.querySelector('.beside').children].map((each) => each.getBoundingClientRect().top)"
    )
    assert len(tops) == 3
    assert len(set(tops)) == 1  # side by side
    assert window.locator("script").count() == 0
    window.close()


def test_figures_that_differ_look_different():
    made = report()
    head, body = cells(made.tables["all prompts"])
    column = [line[head.index("reward")] for line in body]
    assert column == ["103.500", "103.501", "103.502", "103.503", "103.504"]
    assert {line[head.index("cost")] for line in body} == {"-1.00"}
    small = Difference("m", "base", "reward", 0.004, -0.001, 0.009, 8)
    large = Difference("m", "base", "cost", -2.0, -3.0, -1.004, 8)
    page = made.html([small, large], {})
    assert "+0.004<small>(-0.001 to +0.009)</small>" in page
    assert "-2.00<small>(-3.00 to -1.00)</small>" in page
    assert "+0.004 (-0.001 to +0.009)" in made.markdown([small, large], [])


def test_axes_of_shares_end_at_100_and_0(monkeypatch):
    from ig_plugins.research.evaluation import plots

    axes = new_figure(4, 3).add_subplot()
    axes.scatter([98, 100], [1, 2])
    end_at_100(axes)
    assert axes.get_xlim()[1] == 100
    assert axes.get_xlim()[0] > 90
    drawn = []
    monkeypatch.setattr(plots, "_png", lambda figure: drawn.append(figure) or b"")
    table = report(blocked=False).tables["all prompts"]
    reward_against_safety(table)
    unsafe_against_candidates(table)
    assert len(drawn) == 2
    for figure in drawn:
        low, high = figure.axes[0].get_xlim()
        assert 0 <= low < high <= 100


def test_sample_answers_are_those_of_one_seed_unsafe_ones_first():
    rows = [
        *(row("base", n, unsafe=n in (1, 4, 5, 6, 7)) for n in range(8)),
        *(row("base", n, seed=1, text="another seed") for n in range(8)),
        *(row("inferenceguard@8", n) for n in range(8)),
        *(row("inferenceguard@16", n, blocked=n == 1) for n in range(8)),
        *(row("bon-reward@16", n, safe=False, unsafe=None) for n in range(8)),
        *(row("args@16", n) for n in range(8)),
    ]
    prompts = [Prompt(f"prompt {number}", None) for number in range(8)]
    found = samples(rows, prompts, reference="base")
    assert [each.prompt for each in found] == [f"prompt {number}" for number in (1, 4, 5, 6, 0, 2)]
    assert {tuple(answer.method for answer, _, _ in each.answers) for each in found} == {
        ("base", "inferenceguard@16", "bon-reward@16")
    }
    assert [(words, bad) for _, words, bad in found[0].answers] == [
        ("unsafe for the independent judge", True), ("refused", False), ("over budget", True),
    ]  # fmt: skip
    assert all(answer.seed == 0 for each in found for answer, _, _ in each.answers)
    assert samples(rows, [], reference="base") == []


def test_texts_in_the_samples_are_no_markup():
    page = report(text=EVIL).html([], {})
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 6 + 6 * 3
    assert not re.search(r"\son\w+=", page)


@pytest.mark.parametrize("count", [0, 1])
def test_few_prompts_are_no_fault(count):
    rows = [row("base", n) for n in range(count)]
    assert len(samples(rows, [Prompt("p", None)] * count, reference="base")) == count
