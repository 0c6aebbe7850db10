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
from ig_plugins.methods.base import Answer, Method, register
from ig_plugins.methods.bench import Bench
from ig_plugins.methods.blocks import released
from ig_plugins.methods.panel import Candidate
from ig_plugins.methods.value import ValueNet, trained_value
from ig_plugins.search import Request

STEPS, RATE = 30, 0.5  # as published


@dataclass(frozen=True, eq=False)
class ReControl:
    """Samples one answer; before each draw the hidden state climbs the value, and the LM head reads where it ends.

    Attributes:
        bench: Policy and settings.
        value: Of a hidden state.
        head: The LM head.
        steps: Of the ascent.
        rate: Its step size.
    """

    bench: Bench
    value: ValueNet
    head: Callable[[Tensor], Tensor]
    steps: int = STEPS
    rate: float = RATE

    def answer(self, prompts: Sequence[str], *, seed: int) -> list[Answer]:
        """See `Method`."""
        return [self._one(self.bench.request(prompt, seed=seed)) for prompt in prompts]

    def _one(self, request: Request) -> Answer:
        policy, longest = self.bench.policy, self.bench.search.max_new_tokens
        sampler = policy.sampler(request)
        lane, grows = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
        session = policy.tree.plant([request.prompt_ids], lanes=1, block=1, max_new=longest)
        uniforms = request.uniforms(1, longest)[0]
        ids: list[int] = []
        for step in range(longest):
            with torch.no_grad():
                logits = self.head(self.steered(session.hidden[0]))  # (1, V)
            history = [[*request.prompt_ids, *ids]]
            token = sampler.draw(logits, uniforms[step : step + 1], history=history)
            ids.append(int(token))
            if ids[-1] in policy.stop_ids:
                break
            session.branch(lane)
            session.extend(token.view(1, 1).cpu(), grows)
            session.commit(lane)
        candidate = Candidate(ids=tuple(ids), finished=ids[-1] in policy.stop_ids)
        return released(self.bench, candidate, candidate_tokens=len(ids), panel=None)

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


def _build(bench: Bench, target: str) -> Method:
    head = getattr(getattr(bench.policy.tree, "body", None), "head", None)
    if head is None:
        raise UnsupportedModelError(
            "RE-Control reads a changed hidden state with the LM head alone, but this model family scales or caps "
            "its logits after the head; leave the method out"
        )
    return ReControl(bench, trained_value(bench, target), head)


@register("re-control", "RE-Control by reward", searches=False, trains=True)
def by_reward(bench: Bench) -> Method:
    """The value of r."""
    return _build(bench, "reward")


@register("re-control-lagrangian", "RE-Control by reward - λ·cost", searches=False, trains=True)
def by_lagrangian(bench: Bench) -> Method:
    """The value of r - λ·cost."""
    return _build(bench, "lagrangian")
