"""An evaluation from beginning to end: answers that are missing, the oracle, the report."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_models.identity import describe
from ig_plugins.errors import ConfigurationError
from ig_plugins.guard import InferenceGuard
from ig_plugins.research.evaluation.oracle import oracle_rewards
from ig_plugins.research.evaluation.prompts import Prompt
from ig_plugins.research.evaluation.report import Report
from ig_plugins.research.evaluation.results import ResultStore
from ig_plugins.research.evaluation.runner import TOGETHER, pending, run, trials
from ig_plugins.research.evaluation.verdicts import Verdicts
from ig_plugins.research.methods import Context, methods

Progress = Callable[[str, int, int], None]  # stage, done, of


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        methods: Their names; empty for all that the guard can run.
        candidates: Each search is run once for each N.
        seeds: Each prompt is asked once for each.
        multiplier: λ of the Lagrangian rules.
        training_prompts: For methods with a value network.
        answers: Every possible answer to a prompt, where a grammar knows them: gives the oracle.
        harmless: The group of prompts that nothing is wrong with, if there is one.
    """

    methods: tuple[str, ...] = ()
    candidates: tuple[int, ...] = (16, 64)
    seeds: tuple[int, ...] = (0, 1)
    multiplier: float = 5.0
    training_prompts: tuple[str, ...] = ()
    answers: Callable[[str], Sequence[str]] | None = None
    harmless: str | None = None


def evaluate(
    guard: InferenceGuard,
    prompts: Sequence[Prompt],
    plan: Plan,
    *,
    out: str | Path,
    verdicts: Verdicts | Sequence[Verdicts] | None = None,
    progress: Progress = lambda stage, done, of: None,
) -> Report:
    """Runs a plan, resuming what the folder already holds, and writes its reports.

    Args:
        guard: The guard whose policy and judges all methods share.
        prompts: What to ask; none of them may be a training prompt.
        plan: What to run.
        out: The folder for results and reports.
        verdicts: The independent judge, or several of them; the first stands for them in figures of one judge.
        progress: Told (stage, done, of).

    Raises:
        ConfigurationError: A plan that cannot be run.
        MismatchError: The folder holds results of another run.
    """
    shared = {prompt.text for prompt in prompts} & set(plan.training_prompts)
    if shared:
        raise ConfigurationError(f"{len(shared)} prompts are both trained and evaluated on; remove them from one file")
    groups = {prompt.group for prompt in prompts}
    if plan.harmless is not None and plan.harmless not in groups:
        known = ", ".join(sorted(group for group in groups if group is not None)) or "none"
        raise ConfigurationError(f"no prompt is of the group {plan.harmless!r} of harmless ones; groups: {known}")
    judges = [verdicts] if isinstance(verdicts, Verdicts) else list(verdicts or ())
    if len({each.judge.name for each in judges}) < len(judges):
        raise ConfigurationError("two independent judges have the same name; figures go by name, so give each another")
    context = Context(guard, multiplier=plan.multiplier, training_prompts=plan.training_prompts, progress=progress)
    names = plan.methods or runnable(context)
    store = ResultStore(out, identity(context, prompts, judges))
    runs = trials(context, names, plan.candidates)
    missing = sum(len(todo) for _, todo in pending(store, runs, prompts, plan.seeds))
    total, done = len(runs) * len(prompts) * len(plan.seeds), 0

    def answered(count: int) -> None:
        nonlocal done
        done += count
        progress("answers", total - missing + done, total)

    rows = run(context, runs, prompts, seeds=plan.seeds, store=store, verdicts=judges, on_answers=answered)
    oracle = _oracle(context, prompts, plan, Path(out), progress) if plan.answers else None
    report = Report(
        title=f"Evaluation of {guard.policy_id}",
        facts=_facts(context, prompts, plan, judges),
        rows=rows,
        prompts=prompts,
        limit=context.budgets[0].limit,
        oracle=oracle,
        reference="base" if "base" in names else runs[0].label,
        harmless=plan.harmless,
    )
    report.write(out)
    return report


def runnable(context: Context) -> tuple[str, ...]:
    """The methods that have all that they need."""
    return tuple(
        name
        for name, entry in methods().items()
        if (not entry.critic or context.critic is not None)
        and (not entry.trains or len(context.training_prompts) > 1)
        and (
            context.guard.components.reward is not None
            or name in ("base", "args-cost")
            or name.startswith("inferenceguard")
        )
    )


def identity(context: Context, prompts: Sequence[Prompt], verdicts: Sequence[Verdicts]) -> dict[str, Any]:
    """What all rows of a folder have in common; methods, candidates and seeds may be added later."""
    guard = context.guard.identity()
    search = {k: v for k, v in guard["search"].items() if k not in ("candidates", "beams", "seed", "selection")}
    judges = [[each.judge.name, describe(each.judge), each.limit] for each in verdicts]
    return {
        "guard": {**guard, "search": search},
        "prompts": _digest([prompt.text for prompt in prompts]),
        "training_prompts": _digest(context.training_prompts),
        "judge": judges[0] if judges else None,
        **({"more_judges": judges[1:]} if judges[1:] else {}),
        "multiplier": context.multiplier,
        "weight": context.weight,
    }


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


def _oracle(context: Context, prompts: Sequence[Prompt], plan: Plan, out: Path, progress: Progress) -> dict[int, float]:
    """The best rewards, computed once for a folder."""
    path = out / "oracle.json"
    if path.exists():
        return {int(index): reward for index, reward in json.loads(path.read_text(encoding="utf-8")).items()}
    done = 0

    def scored() -> None:
        nonlocal done
        done += 1
        progress("oracle", done, len(prompts))

    best = oracle_rewards(context, prompts, plan.answers or (lambda prompt: []), on_prompt=scored)
    partial = path.with_name("oracle.json.partial")
    partial.write_text(json.dumps(best) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return best


def _facts(context: Context, prompts: Sequence[Prompt], plan: Plan, verdicts: Sequence[Verdicts]) -> dict[str, str]:
    search = context.search
    judged = [f"{each.judge.name} (unsafe above {each.limit:g})" for each in verdicts]
    budgets = [f"{b.limit:g}, discount {b.discount:g}, {b.accounting}, {b.reading}" for b in context.budgets]
    return {
        "policy": context.guard.policy_id,
        "cost models": ", ".join(context.guard.components.costs),
        "budget": "; ".join(budgets),
        "independent judge": "; ".join(judged) or "none",
        "prompts": f"{len(prompts)} with seeds {', '.join(map(str, plan.seeds))}",
        "search": f"blocks of {search.block_tokens}, up to {search.max_new_tokens} tokens, N/4 beams, "
        f"{search.tries} tries, temperature {search.temperature:g}",
        "Lagrangian multiplier": f"{context.multiplier:g}",
        "seconds": f"wall clock of a batch of {TOGETHER} prompts, shared evenly",
    }
