"""Whether a conversation asks for a tool: how much likelier it makes a call than one whose question says nothing.

Small models give calls so little probability that none is ever drawn. What they know shows in the difference: of the
log probability that the answer begins with a call of the tool, behind this question and behind an empty one (contextual
calibration, Zhao et al. 2021, arXiv 2102.09690). That takes out what the tools' names and the instruction do to it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ig_plugins.chat.messages import as_messages
from ig_plugins.chat.rendering import inside
from ig_plugins.errors import ConfigurationError
from ig_plugins.runtime.fair_lock import torch_lock
from ig_plugins.runtime.worker import refuse_within_a_step

if TYPE_CHECKING:
    from ig_plugins.chat import EncodedPrompt, Message
    from ig_plugins.guard.options import Options
    from ig_plugins.search import Policy

NOTHING = "N/A"  # the question that says nothing
TOGETHER = 16  # tools whose calls are read in one go
KEPT = 64  # conversations without a question, of a policy

_known: WeakKeyDictionary[Any, OrderedDict[Any, Tensor]] = WeakKeyDictionary()


def can_weigh(encoded: EncodedPrompt) -> bool:
    """Whether there are tools whose calls begin with their names, so that each call's beginning has a probability."""
    return encoded.syntax is not None and bool(encoded.syntax.before_name)


def threshold_here(prompt: str | Sequence[Message], encoded: EncodedPrompt, options: Options) -> float | None:
    """From which gain on a tool is called here; None where none is weighed.

    They are weighed at a user's turn, where the model is free to call. Behind a tool's result the question has been
    answered by a call, and the model is to go on by itself.
    """
    free = encoded.tool_choice == "auto" and can_weigh(encoded)
    if not free or options.held_to is not None or encoded.last_assistant:
        return None
    return options.tool_threshold if as_messages(prompt)[-1]["role"] == "user" else None


def without_question(prompt: str | Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation with a last question that says nothing."""
    return [*as_messages(prompt)[:-1], {"role": "user", "content": NOTHING}]


def gains(policy: Policy, encoded: EncodedPrompt, empty: EncodedPrompt) -> Mapping[str, float]:
    """By tool, how much likelier its call is, in nats.

    Args:
        policy: Samples the answer.
        encoded: The conversation, with tools that the model is free to call.
        empty: The same without a question.

    Raises:
        ConfigurationError: A server samples, which tells no such probabilities.
    """
    if policy.remote:
        raise ConfigurationError(
            "tool_threshold reads the policy's probabilities, which this server does not tell; leave it out, or name "
            "the policy by its hub id or folder"
        )
    if encoded.syntax is None:
        return {}
    names = [tool["function"]["name"] for tool in encoded.tools]
    openings = tuple(tuple(inside(policy.tokenizer, encoded.syntax.opening(name), trusted=True)) for name in names)
    asked = _likelihoods(policy, encoded.prompt_ids, openings)
    known, key = _known.setdefault(policy, OrderedDict()), (tuple(empty.prompt_ids), openings)
    if key not in known:
        known[key] = _likelihoods(policy, empty.prompt_ids, openings)
        while len(known) > KEPT:
            known.popitem(last=False)
    return {name: float(a - b) for name, a, b in zip(names, asked, known[key], strict=True)}


@torch.inference_mode()
def _likelihoods(policy: Policy, prompt: Sequence[int], openings: Sequence[Sequence[int]]) -> Tensor:
    """Log probabilities (L,) of L given beginnings behind a prompt; one prompt at a time, whoever else asks."""
    refuse_within_a_step()
    with torch_lock:
        longest = max(map(len, openings))
        session: Any = policy.engine.prefill(
            [prompt], lanes=min(TOGETHER, len(openings)), block=longest, max_new=longest
        )
        parts = [_said(session, openings[at : at + TOGETHER]) for at in range(0, len(openings), TOGETHER)]
    return torch.cat(parts)


def _said(session: Any, openings: Sequence[Sequence[int]]) -> Tensor:
    """Log probabilities (L,) of the beginnings, of which each lane says one."""
    L = len(openings)
    session.fork(torch.zeros(1, L, dtype=torch.long))
    if session.can_draft:  # all in one forward
        proposal = session.draft({(0, lane): list(opening) for lane, opening in enumerate(openings)})
        behind = list(proposal.logits.split([len(opening) for opening in openings]))
        logits = [torch.cat([session.logits[0], each[:-1]]) for each in behind]
    else:
        logits = _one_by_one(session, openings)
    session.rollback()
    said = [each.double().log_softmax(dim=-1).cpu() for each in logits]
    return torch.stack([each[range(len(ids)), list(ids)].sum() for each, ids in zip(said, openings, strict=True)])


def _one_by_one(session: Any, openings: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits (T, V) at which each beginning is said, where no tokens can be proposed."""
    steps: list[list[Tensor]] = [[] for _ in openings]
    for step in range(max(map(len, openings))):
        here = [ids[step] if step < len(ids) else 0 for ids in openings]
        active = torch.tensor([[step < len(ids) for ids in openings]])
        for lane, mine in enumerate(steps):
            mine += [session.lane_logits[0, lane]] if bool(active[0, lane]) else []
        session.extend(torch.tensor([here]), active)
    return [torch.stack(each) for each in steps]
