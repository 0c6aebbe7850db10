"""RE-Control: steering by gradient ascent on a value of the hidden state (Kong et al., arXiv 2406.05954).

Written from the method's description. The released code puts the terminal loss at the first position; here every
prefix learns the score of its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ig_plugins.errors import UnsupportedModelError
from ig_plugins.research.methods.base import Answer, Method, register
from ig_plugins.research.methods.context import Context
from ig_plugins.research.methods.value import ValueNet, trained_value

STEPS, RATE = 30, 0.5  # as published


@dataclass(frozen=True, eq=False)
class ReControl:
    """Samples one answer; before each draw the hidden state climbs the value, and the LM head reads where it ends.

    Attributes:
        context: Policy and settings.
        value: Of a hidden state.
        head: The LM head.
        steps: Of the ascent.
        rate: Its step size.
    """

    context: Context
    value: ValueNet
    head: Callable[[Tensor], Tensor]
    steps: int = STEPS
    rate: float = RATE

    def answer(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Answer]:
        """See `Method`."""
        policy, longest = self.context.policy, self.context.search.max_new_tokens
        requests = [self.context.request(prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        samplers = [policy.sampler(request) for request in requests]
        uniforms = [request.uniforms(1, longest)[0] for request in requests]
        session = policy.engine.prefill([r.prompt_ids for r in requests], lanes=1, block=1, max_new=longest)
        sampled: list[list[int]] = [[] for _ in requests]
        rows = list(range(len(requests)))
        for step in range(longest):
            with torch.no_grad():
                logits = self.head(self.steered(session.hidden[:, 0]))  # (B, V)
            for index, row in enumerate(rows):
                history = [[*requests[row].prompt_ids, *sampled[row]]]
                draw = uniforms[row][step : step + 1]
                sampled[row].append(int(samplers[row].draw(logits[index : index + 1], draw, history=history)))
            going = [index for index, row in enumerate(rows) if sampled[row][-1] not in policy.stop_ids]
            rows = [rows[index] for index in going]
            if not rows:
                break
            session.keep_rows(going)
            one = torch.zeros(len(rows), 1, dtype=torch.long)
            session.fork(one)
            session.extend(torch.tensor([[sampled[row][-1]] for row in rows]), torch.ones_like(one, dtype=torch.bool))
            session.select(one)
        return [Answer.of(self.context, ids, candidate_tokens=len(ids)) for ids in sampled]

    def steered(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., H) after the ascent, in their own dtype."""
        device = next(self.value.parameters()).device
        state = hidden.detach().to(device, torch.float32).clone()
        with torch.enable_grad():
            for _ in range(self.steps):
                state.requires_grad_(True)
                (slope,) = torch.autograd.grad(self.value(state).sum(), state)
                state = (state + self.rate * slope).detach()
        return state.to(hidden)


def _build(context: Context, target: str) -> Method:
    head = getattr(getattr(context.policy.tree, "body", None), "head", None)
    if head is None:
        raise UnsupportedModelError(
            "RE-Control reads a changed hidden state with the LM head alone, but this model family scales or caps "
            "its logits after the head; leave the method out"
        )
    return ReControl(context, trained_value(context, target), head)


@register("re-control", "RE-Control by reward", searches=False, trains=True)
def by_reward(context: Context) -> Method:
    """The value of r."""
    return _build(context, "reward")


@register("re-control-lagrangian", "RE-Control by reward - λ·cost", searches=False, trains=True)
def by_lagrangian(context: Context) -> Method:
    """The value of r - λ·cost."""
    return _build(context, "lagrangian")
