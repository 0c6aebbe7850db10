"""Runs methods on prompts, paired by prompt and seed, and measures every answer the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ig_plugins.errors import ConfigurationError
from ig_plugins.research.evaluation.prompts import Prompt
from ig_plugins.research.evaluation.results import Key, ResultRow, ResultStore
from ig_plugins.research.evaluation.verdicts import Verdicts, draw_seed
from ig_plugins.research.methods import Answer, Context, Method, method
from ig_plugins.research.methods.candidate_scorer import Candidate, CandidateScorer
from ig_plugins.search import Capacity

TOGETHER = 8  # prompts that a method answers as one batch


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


def trials(context: Context, names: Sequence[str], candidates: Sequence[int]) -> list[Trial]:
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
            mine = context.with_candidates(count) if entry.searches else context
            label = f"{name}@{count}" if entry.searches else name
            built.append(Trial(label, name, count, entry.build(mine)))
    return built


def pending(
    store: ResultStore, runs: Sequence[Trial], prompts: Sequence[Prompt], seeds: Sequence[int]
) -> Iterator[tuple[Trial, list[tuple[int, int]]]]:
    """What is not in the store yet, in the order of running: (trial, up to `TOGETHER` pairs of prompt and seed)."""
    asked = [(index, seed) for seed in seeds for index in range(len(prompts))]
    for at in range(0, len(asked), TOGETHER):
        for run in runs:
            todo = [
                (index, seed) for index, seed in asked[at : at + TOGETHER] if Key(run.label, index, seed) not in store
            ]
            if todo:
                yield run, todo


def run(
    context: Context,
    runs: Sequence[Trial],
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[int],
    store: ResultStore,
    verdicts: Sequence[Verdicts] = (),
    on_answers: Callable[[int], None] = lambda count: None,
) -> list[ResultRow]:
    """Answers what is missing and returns all rows of these trials, prompts and seeds.

    Methods take turns on every batch of prompts, so that a slow minute of the machine falls on all of them alike.

    Args:
        context: Measures the answers.
        runs: What to run.
        prompts: What to ask.
        seeds: Each prompt is asked once for each of them.
        store: Keeps the rows.
        verdicts: The independent judges.
        on_answers: Called after every batch with its size.
    """
    for trial, todo in list(pending(store, runs, prompts, seeds)):
        texts = [prompts[index].text for index, _ in todo]
        started = time.perf_counter()
        answers = trial.method.answer(texts, seeds=[draw_seed(seed, index) for index, seed in todo])
        seconds = (time.perf_counter() - started) / len(todo)
        scores = [_judged(judge, texts, answers) for judge in verdicts]
        found = zip(todo, answers, measure(context, texts, answers), strict=True)
        store.add(
            _row(
                trial,
                prompts[index],
                index,
                seed,
                answer,
                measured,
                seconds,
                _opinions(verdicts, [mine[place] for mine in scores]),
            )
            for place, ((index, seed), answer, measured) in enumerate(found)
        )
        on_answers(len(todo))
    wanted = {Key(run.label, index, seed) for run in runs for index in range(len(prompts)) for seed in seeds}
    return [row for row in store.rows if row.key in wanted]


def measure(context: Context, prompts: Sequence[str], answers: Sequence[Answer]) -> list[Candidate]:
    """What the cost and reward models say of an answer to each prompt, read whole and afresh.

    Every method's answers are measured here, so that no method is taken at its word. A refusal is measured as the
    text that the user sees.
    """
    read = [_read(context, answer) for answer in answers]
    lengths = torch.tensor([[len(ids)] for ids in read])
    longest = int(lengths.max())
    tokens = torch.zeros(len(read), 1, longest, dtype=torch.long)
    for row, ids in enumerate(read):
        tokens[row, 0, : len(ids)] = torch.tensor(ids)
    scorer = CandidateScorer(context, capacity=Capacity(lanes=1, block=longest, max_new=longest))
    scorer.add_rows([context.request(prompt, seed=0) for prompt in prompts])
    finished = torch.tensor([[ids[-1] in context.policy.stop_ids] for ids in read])
    return [
        only for (only,) in (row.values() for row in scorer.judge(torch.zeros_like(lengths), tokens, lengths, finished))
    ]


def _read(context: Context, answer: Answer) -> list[int]:
    """The tokens that the judges read."""
    if answer.token_ids and not answer.blocked:
        return list(answer.token_ids)
    encoded = context.policy.tokenizer.encode(answer.text, add_special_tokens=False)
    return [*encoded, *sorted(context.policy.stop_ids)[:1]]


def _judged(judge: Verdicts, prompts: Sequence[str], answers: Sequence[Answer]) -> list[float | None]:
    return judge.judged(
        prompts,
        [answer.text for answer in answers],
        finished=[answer.finished for answer in answers],
        blocked=[answer.blocked for answer in answers],
    )


def _row(
    trial: Trial,
    prompt: Prompt,
    index: int,
    seed: int,
    answer: Answer,
    measured: Candidate,
    seconds: float,
    opinions: Mapping[str, Any],
) -> ResultRow:
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
        safe=measured.safe_throughout,
        safe_at_end=measured.safe_at_end,
        seconds=seconds,
        tokens=len(answer.token_ids),
        candidate_tokens=answer.candidate_tokens,
        judge_calls=answer.judge_calls,
        judge_tokens=answer.judge_tokens,
        **opinions,
    )


def _opinions(verdicts: Sequence[Verdicts], scores: Sequence[float | None]) -> dict[str, Any]:
    """What the judges say of one answer, as fields of its row; a refusal, which has no score, is not unsafe."""
    if not verdicts:
        return {"judged": None, "unsafe": None}
    unsafe = [score is not None and judge.unsafe(score) for judge, score in zip(verdicts, scores, strict=True)]
    names = [judge.judge.name for judge in verdicts]
    return {
        "judged": scores[0],
        "unsafe": unsafe[0],
        "more_judged": dict(zip(names[1:], scores[1:], strict=True)),
        "more_unsafe": dict(zip(names[1:], unsafe[1:], strict=True)),
    }
