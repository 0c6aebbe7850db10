"""Runs methods on prompts, paired by prompt and seed, and measures every answer the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ig_plugins.errors import ConfigurationError
from ig_plugins.evaluation.prompts import Prompt
from ig_plugins.evaluation.results import Key, ResultRow, ResultStore
from ig_plugins.evaluation.verdicts import Verdicts, draw_seed
from ig_plugins.methods import Answer, Bench, Method, method
from ig_plugins.methods.panel import Candidate, Panel
from ig_plugins.search import Capacity


@dataclass(frozen=True)
class Trial:
    """One method at one number of candidates.

    Attributes:
        label: In rows and reports.
        family: The method's name.
        candidates: N; 1 for methods without candidates.
        method: Answers.
    """

    label: str
    family: str
    candidates: int
    method: Method


def trials(bench: Bench, names: Sequence[str], candidates: Sequence[int]) -> list[Trial]:
    """Builds methods: those that search once for each number of candidates, the others once.

    Raises:
        ConfigurationError: An unknown method, one named twice, or one that this guard cannot run.
    """
    if len(set(names)) != len(names):
        raise ConfigurationError(f"methods {', '.join(names)}: name each only once")
    built = []
    for name in names:
        entry = method(name)
        for count in candidates if entry.searches else (1,):
            mine = bench.with_candidates(count) if entry.searches else bench
            label = f"{name}@{count}" if entry.searches else name
            built.append(Trial(label, name, count, entry.build(mine)))
    return built


def pending(
    store: ResultStore, runs: Sequence[Trial], prompts: Sequence[Prompt], seeds: Sequence[int]
) -> Iterator[tuple[int, int, list[Trial]]]:
    """What is not in the store yet: (seed, index of the prompt, trials)."""
    for seed in seeds:
        for index in range(len(prompts)):
            todo = [run for run in runs if Key(run.label, index, seed) not in store]
            if todo:
                yield seed, index, todo


def run(
    bench: Bench,
    runs: Sequence[Trial],
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[int],
    store: ResultStore,
    verdicts: Verdicts | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> list[ResultRow]:
    """Answers what is missing and returns all rows of these trials, prompts and seeds.

    Methods take turns on every prompt, so that a slow minute of the machine falls on all of them alike.

    Args:
        bench: Measures the answers.
        runs: What to run.
        prompts: What to ask.
        seeds: Each prompt is asked once for each of them.
        store: Keeps the rows.
        verdicts: The independent judge, or None.
        on_answer: Called after every answer.
    """
    for seed, index, todo in list(pending(store, runs, prompts, seeds)):
        prompt = prompts[index]
        answers, seconds = [], []
        for trial in todo:
            started = time.perf_counter()
            answers += trial.method.answer([prompt.text], seed=draw_seed(seed, index))
            seconds.append(time.perf_counter() - started)
            on_answer()
        judged = _judged(verdicts, prompt.text, answers) if verdicts else [None] * len(answers)
        rows = []
        for trial, answer, score, took in zip(todo, answers, judged, seconds, strict=True):
            measured = measure(bench, prompt.text, answer)
            rows.append(_row(bench, trial, prompt, index, seed, answer, measured, score, verdicts, took))
        store.add(rows)
    wanted = {Key(run.label, index, seed) for run in runs for index in range(len(prompts)) for seed in seeds}
    return [row for row in store.rows if row.key in wanted]


def measure(bench: Bench, prompt: str, answer: Answer) -> Candidate:
    """What the cost and reward models say of an answer, read whole and afresh.

    Every method's answers are measured here, so that no method is taken at its word. A refusal is measured as the
    text that the user sees.
    """
    ids = list(answer.token_ids)
    if answer.blocked or not ids:
        encoded = bench.policy.tokenizer.encode(answer.text, add_special_tokens=False)
        ids = [*encoded, *sorted(bench.policy.stop_ids)[:1]]
    request = bench.request(prompt, seed=0)
    panel = Panel(bench, request, capacity=Capacity(lanes=1, block=len(ids), max_new=len(ids)))
    only = torch.zeros(1, 1, dtype=torch.long)
    finished = torch.tensor([[ids[-1] in bench.policy.stop_ids]])
    (found,) = panel.judge([panel.start()], torch.tensor([[ids]]), torch.tensor([[len(ids)]]), finished, beams=only)
    return found


def _judged(verdicts: Verdicts, prompt: str, answers: Sequence[Answer]) -> list[float | None]:
    """The judge's scores; None for refusals, which it is not asked about."""
    asked = [answer for answer in answers if not answer.blocked]
    found = iter(verdicts.scores(prompt, [a.text for a in asked], finished=[a.finished for a in asked]))
    return [None if answer.blocked else next(found) for answer in answers]


def _row(
    bench: Bench,
    trial: Trial,
    prompt: Prompt,
    index: int,
    seed: int,
    answer: Answer,
    measured: Candidate,
    score: float | None,
    verdicts: Verdicts | None,
    seconds: float,
) -> ResultRow:
    unsafe = None
    if verdicts is not None:
        unsafe = score is not None and verdicts.unsafe(score)
    return ResultRow(
        method=trial.label,
        family=trial.family,
        candidates=trial.candidates,
        prompt=index,
        seed=seed,
        group=prompt.group,
        text=answer.text,
        blocked=answer.blocked,
        finished=answer.finished,
        reward=measured.reward,
        cost=measured.spent,
        state=min(measured.states),
        safe=all(measured.sound),
        safe_at_end=measured.safe_at_end(bench.budgets),
        judged=score,
        unsafe=unsafe,
        seconds=seconds,
        tokens=len(answer.token_ids),
        candidate_tokens=answer.candidate_tokens,
        judge_calls=answer.judge_calls,
        judge_tokens=answer.judge_tokens,
    )
