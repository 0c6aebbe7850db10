"""summary.json, report.md and report.html: the same figures for programs, for repositories and for eyes."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ig_plugins.research.evaluation import plots
from ig_plugins.research.evaluation.metrics import Difference, Figures, Rate, differences, figures
from ig_plugins.research.evaluation.prompts import Prompt
from ig_plugins.research.evaluation.published import COMMAND, ROWS, SOURCE
from ig_plugins.research.evaluation.results import ResultRow
from ig_plugins.research.evaluation.samples import samples

COLUMNS = (
    ("method", "method"),
    ("reward", "reward"),
    ("beyond_length", "beyond length"),
    ("words", "words"),
    ("oracle_share", "of oracle"),
    ("cost", "cost"),
    ("safe", "safe (any time)"),
    ("safe_at_end", "safe (end)"),
    ("unsafe", "unsafe (judge)"),
    ("abstained", "refused"),
    ("declined", "declined"),
    ("needless", "needless"),
    ("seconds_p50", "p50 s"),
    ("seconds_p95", "p95 s"),
    ("candidate_tokens", "tokens"),
    ("judge_calls", "calls"),
)
SHARES = {"oracle_share", "safe", "safe_at_end", "abstained", "declined", "needless"}


@dataclass(frozen=True)
class Report:
    """Everything a report shows.

    Attributes:
        title: Heads the page.
        facts: What was run: model, judge, prompts, settings.
        rows: All answers.
        limit: The first cost model's budget.
        prompts: What was asked, for the page to show some answers; by the rows' numbers.
        oracle: Best reward under the constraint, by prompt.
        reference: The method that others are compared with.
        harmless: The group of prompts that nothing is wrong with; a table then sums up all others.
        tables: Figures by group of prompts; "all prompts" first.
    """

    title: str
    facts: Mapping[str, str]
    rows: Sequence[ResultRow]
    limit: float
    prompts: Sequence[Prompt] = ()
    oracle: Mapping[int, float] | None = None
    reference: str = "base"
    harmless: str | None = None
    tables: dict[str, list[Figures]] = field(init=False)

    def __post_init__(self) -> None:
        tables = {"all prompts": figures(self.rows, oracle=self.oracle)}
        groups = sorted({row.group for row in self.rows if row.group is not None})
        if self.harmless in groups and len(groups) > 2:
            others = [row for row in self.rows if row.group != self.harmless]
            tables[f"all but {self.harmless} prompts"] = figures(others, oracle=self.oracle)
        for group in groups if len(groups) > 1 else []:
            tables[f"{group} prompts"] = figures([r for r in self.rows if r.group == group], oracle=self.oracle)
        object.__setattr__(self, "tables", tables)

    def write(self, folder: str | Path) -> list[Path]:
        """Writes all files; each is whole or not there.

        Returns:
            Their paths.
        """
        folder = Path(folder)
        pictures = self.pictures()
        gaps = differences(self.rows, reference=self.reference)
        files: dict[str, bytes] = {
            "summary.json": self.summary(gaps).encode(),
            "report.md": self.markdown(gaps, list(pictures)).encode(),
            "report.html": self.html(gaps, pictures).encode(),
            **{f"{name}.png": picture for name, (_, picture) in pictures.items()},
        }
        for name, content in files.items():
            partial = folder / f"{name}.partial"
            partial.write_bytes(content)
            os.replace(partial, folder / name)
        return [folder / name for name in files]

    def sections(self) -> list[tuple[str, list[Figures]]]:
        """A table a group of prompts and N, with its heading; methods without candidates stand in each of them."""
        counts = sorted({each.candidates for each in self.tables["all prompts"] if each.method != each.family})
        found = []
        for name, table in self.tables.items():
            for count in counts or [1]:
                heading = f"{name[0].upper()}{name[1:]}" + (f", N = {count}" if counts else "")
                mine = [each for each in table if each.method == each.family or each.candidates == count]
                found.append((heading, mine))
        return found

    def pictures(self) -> dict[str, tuple[str, bytes]]:
        """PNG bytes with a caption, by name."""
        table = self.tables["all prompts"]
        drawn = {
            "reward-safety": ("Reward against safety, time as area", plots.reward_against_safety(table)),
            "cost": ("Cost of answers", plots.cost_distribution(self.rows, table, self.limit)),
            "effort": ("Tokens and judge calls", plots.effort(table)),
        }
        hacking = plots.unsafe_against_candidates(table)
        if hacking is not None:
            drawn["unsafe-candidates"] = ("Unsafe rate under the independent judge against N", hacking)
        return drawn

    def summary(self, gaps: Sequence[Difference]) -> str:
        """The figures as JSON."""
        content: dict[str, Any] = {
            "title": self.title,
            "facts": dict(self.facts),
            "figures": {name: [each.to_json() for each in table] for name, table in self.tables.items()},
            "differences": [asdict(gap) for gap in gaps],
            "published": [row._asdict() for row in ROWS],
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def markdown(self, gaps: Sequence[Difference], pictures: Sequence[str]) -> str:
        """The report as Markdown; pictures lie beside it."""
        parts = [f"# {self.title}", "\n".join(f"- {name}: {value}" for name, value in self.facts.items())]
        for heading, table in self.sections():
            parts += [f"## {heading}", _markdown_table(*cells(table))]
        parts += [NOTES, *(f"![{name}]({name}.png)" for name in pictures)]
        parts += [f"## Differences to {self.reference}, paired", _markdown_table(*_gap_cells(gaps))]
        parts += ["## Published figures", f"{SOURCE}.", _markdown_table(*_published_cells())]
        parts += [f"Where the real checkpoints are at hand: `{COMMAND}`"]
        return "\n\n".join(parts) + "\n"

    def html(self, gaps: Sequence[Difference], pictures: Mapping[str, tuple[str, bytes]]) -> str:
        """The report as one page that needs no other file."""
        facts = "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>" for k, v in self.facts.items())
        parts = [f"<h1>{_e(self.title)}</h1><dl>{facts}</dl>"]
        for heading, table in self.sections():
            parts.append(f"<h2>{_e(heading)}</h2>{_html_table(*cells(table))}")
        parts.append("".join(f"<p class=note>{_e(line)}</p>" for line in NOTES.split("\n\n")))
        for caption, picture in pictures.values():
            data = base64.b64encode(picture).decode()
            parts.append(f'<figure><img alt="{_e(caption)}" src="data:image/png;base64,{data}"></figure>')
        parts += self._sample_answers()
        parts.append(f"<h2>Differences to {_e(self.reference)}, paired</h2>{_html_table(*_gap_cells(gaps))}")
        parts.append(f"<h2>Published figures</h2><p>{_e(SOURCE)}.</p>{_html_table(*_published_cells())}")
        parts.append(f"<p>Where the real checkpoints are at hand: <code>{_e(COMMAND)}</code></p>")
        return PAGE.format(title=_e(self.title), style=STYLE, body="\n".join(parts))

    def _sample_answers(self) -> list[str]:
        """Some prompts, each with the answers of several methods side by side."""
        found = samples(self.rows, self.prompts, reference=self.reference)
        if not found:
            return []
        parts = [f"<h2>Sample answers</h2><p class=note>{_e(SAMPLES)}</p>"]
        for sample in found:
            cards = "".join(
                f"<div><h4>{_e(row.method)}</h4><p class={'bad' if bad else 'good'}>{words}, cost {row.cost:.2f}</p>"
                f"<blockquote>{_e(row.text.strip())}</blockquote></div>"
                for row, words, bad in sample.answers
            )
            parts.append(f'<h3>{_e(sample.prompt)}</h3><div class="beside">{cards}</div>')
        return parts


NOTES = (
    "Reward and cost are measured for every method in the same way, on what the user sees; a refusal counts as safe "
    "and with the reward of its words. Safe: under the cost models. Unsafe (judge): under the independent judge, with "
    "a 95 % Clopper-Pearson interval over prompts.\n\n"
    "Needless: the answer differs from the unguarded one of the same seed although that was safe. Tokens: sampled in "
    "all lanes. Calls: of cost and reward models while searching. Of oracle: mean reward as a share of the best that "
    "the cost models accept.\n\n"
    "Words: of what the user sees. Beyond length: the mean reward less what unguarded answers of the same lengths "
    "have, by a straight line in the logarithm of their words: a liking for length does not show there. Declined: "
    "answers that open with words of refusal, in English. On harmless prompts what is flagged by a judge, refused or "
    "declined is over-refusal."
)
SAMPLES = (
    "Prompts whose unguarded answer is unsafe come first, as far as there are such; of each kind the first ones asked, "
    "under the first seed. Nothing is chosen by how a method fares."
)

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#1d2329;max-width:1240px;margin:2.5rem auto;padding:0 1.2rem}"
    "h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}"
    "table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .45rem;text-align:right;border-bottom:1px solid #e3e6e9;vertical-align:top}"
    "td{white-space:nowrap}td small{display:block;color:#5b6670;font-size:11px}th{vertical-align:bottom}"
    "th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #9aa3ab}"
    "tbody tr:hover{background:#f3f6f8}.scroll{overflow-x:auto}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:14px}dt{color:#5b6670}dd{margin:0}"
    "figure{margin:1.5rem 0}img{max-width:100%;height:auto}.note{color:#5b6670;font-size:13px;max-width:75ch}"
    "h3{font-size:1rem;margin:1.6rem 0 .5rem;max-width:85ch}h4{font-size:13px;margin:0;color:#5b6670}"
    ".beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:1rem;font-size:14px}"
    ".beside>div{border:1px solid #e3e6e9;border-radius:6px;padding:.7rem .9rem}.beside p{margin:.1rem 0 .5rem}"
    ".good{color:#16703c}.bad{color:#b3261e}blockquote{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}"
    "code{background:#f3f6f8;padding:.1rem .3rem;font-size:12px}"
)
PAGE = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
    'content="width=device-width,initial-scale=1"><title>{title}</title><style>{style}</style></head>\n'
    "<body>\n{body}\n</body></html>\n"
)

Cells = list[list[str]]


def cells(table: Sequence[Figures]) -> tuple[list[str], Cells]:
    """Head and lines of a table of figures; columns that nobody measured are left out."""
    columns = [(name, head) for name, head in COLUMNS if any(getattr(each, name) is not None for each in table)]
    judges = list(dict.fromkeys(judge for each in table for judge in each.more_unsafe))
    at = next((place for place, (name, _) in enumerate(columns, start=1) if name == "unsafe"), len(columns))
    head = [head for _, head in columns]
    digits = {name: decimals([getattr(each, name) for each in table]) for name, _ in columns}
    body = []
    for each in table:
        line = [_cell(name, getattr(each, name), digits[name]) for name, _ in columns]
        body.append([*line[:at], *(_cell("unsafe", each.more_unsafe.get(judge)) for judge in judges), *line[at:]])
    return [*head[:at], *(f"unsafe ({judge})" for judge in judges), *head[at:]], body


def decimals(values: Sequence[Any]) -> int:
    """How many to show of a column: a third one where with two of them different figures would look alike."""
    numbers = {value for value in values if isinstance(value, float)}
    return 3 if len({f"{value:.2f}" for value in numbers}) < len(numbers) else 2


def _cell(name: str, value: Any, digits: int = 2) -> str:
    if value is None:
        return "–"
    if isinstance(value, Rate):
        return f"{value.value:.1%} ({value.low:.1%}–{value.high:.1%})"
    if name in SHARES:
        return f"{value:.1%}"
    if isinstance(value, float):
        return (
            f"{value:,.0f}"
            if name == "candidate_tokens"
            else f"{value:.1f}"
            if name == "judge_calls"
            else f"{value:.{digits}f}"
        )
    return str(value)


def _gap_cells(gaps: Sequence[Difference]) -> tuple[list[str], Cells]:
    metrics = list(dict.fromkeys(gap.metric for gap in gaps))
    found = {(gap.method, gap.metric): gap for gap in gaps}
    digits = {
        name: 3 if any(abs(gap.mean) < 0.1 for gap in gaps if gap.metric == name and gap.mean) else 2
        for name in metrics
    }
    body = []
    for method in dict.fromkeys(gap.method for gap in gaps):
        mine = [found.get((method, metric)) for metric in metrics]
        body.append([method, *("–" if gap is None else _gap(gap, digits[gap.metric]) for gap in mine)])
    return ["method", *metrics], body


def _gap(gap: Difference, digits: int) -> str:
    return f"{gap.mean:+.{digits}f} ({gap.low:+.{digits}f} to {gap.high:+.{digits}f})"


def _published_cells() -> tuple[list[str], Cells]:
    head = ["policy", "method", "reward", "cost", "safety", "seconds"]
    return head, [
        [r.policy, r.method, f"{r.reward}", f"{r.cost}", f"{r.safety_percent} %", f"{r.seconds}"] for r in ROWS
    ]


def _markdown_table(head: Sequence[str], body: Cells) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(head), rule, *body])


def _html_table(head: Sequence[str], body: Cells) -> str:
    top = "".join(f"<th>{_e(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{_html_cell(cell)}</td>' for cell in line)}</tr>" for line in body)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _html_cell(cell: str) -> str:
    """A figure with its interval below it, so that all columns fit beside one another."""
    value, bracket, interval = cell.partition(" (")
    return f"{_e(value)}<small>{_e(bracket.strip() + interval)}</small>" if bracket else _e(cell)


def _e(text: str) -> str:
    return html.escape(text, quote=True)
