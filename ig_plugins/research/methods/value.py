"""A value network on the policy's own hidden state: what an answer will score, predicted from a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ig_plugins.engine import sample_block
from ig_plugins.errors import ConfigurationError
from ig_plugins.research.methods.candidate_scorer import Candidate, CandidateScorer
from ig_plugins.research.methods.context import Context
from ig_plugins.research.methods.rules import rule
from ig_plugins.search import Capacity, Request

ANSWERS = 8  # sampled for each training prompt
EPOCHS, BATCH, RATE, PATIENCE = 60, 256, 1e-3, 6


class ValueNet(nn.Module):
    """An MLP from a hidden state to the expected score of the whole answer.

    Args:
        hidden_size: H.
        width: Of both inner layers.
    """

    def __init__(self, hidden_size: int, width: int = 128) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(hidden_size))
        self.scale = nn.Buffer(torch.ones(hidden_size))
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Values (...) of hidden states (..., H)."""
        return self.layers((hidden - self.mean) / self.scale).squeeze(-1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Rollouts:
    """The policy's own answers: every prefix with the score of its end.

    Attributes:
        features: Shape (R, H), the hidden state after the prompt and after each token, as while decoding.
        targets: Shape (R,), the score of the whole answer.
        prompt: Shape (R,), which prompt it was, to split by.
    """

    features: Tensor
    targets: Tensor
    prompt: Tensor


@dataclass(frozen=True)
class Sampled:
    """One answer of the policy: the hidden states (T + 1, H) of its prefixes, the judged end, and its prompt."""

    hidden: Tensor
    end: Candidate
    prompt: int


def trained_value(context: Context, target: str) -> ValueNet:
    """The value network of a rule (``reward``, ``lagrangian``), trained once a context.

    Raises:
        ConfigurationError: There are no training prompts.
    """
    if target not in context.values:
        if len(context.training_prompts) < 2:
            raise ConfigurationError(
                "this method trains a value network on the policy's answers; give at least 2 training prompts, "
                "which must not be among the evaluated ones"
            )
        if not context.sampled:
            context.sampled.extend(sample(context, context.training_prompts))
        context.values[target] = fit(rollouts(context, context.sampled, target), seed=context.seed)
    net: ValueNet = context.values[target]
    return net


def rollouts(context: Context, sampled: Sequence[Sampled], target: str) -> Rollouts:
    """Gives every prefix of the answers the target's score of the end."""
    scores = rule(target, context)([each.end for each in sampled])
    lengths = [len(each.hidden) for each in sampled]
    repeats = torch.tensor(lengths)
    return Rollouts(
        features=torch.cat([each.hidden for each in sampled]),
        targets=torch.tensor(scores).repeat_interleave(repeats),
        prompt=torch.tensor([each.prompt for each in sampled]).repeat_interleave(repeats),
    )


def sample(context: Context, prompts: Sequence[str]) -> list[Sampled]:
    """Samples answers, judges them, and takes the hidden state of every prefix."""
    found: list[Sampled] = []
    for number, prompt in enumerate(prompts):
        found += _answers(context, context.request(prompt, seed=context.seed + number), number)
        context.progress("training answers", number + 1, len(prompts))
    return found


def _answers(context: Context, request: Request, number: int) -> list[Sampled]:
    longest, policy = context.search.max_new_tokens, context.policy
    session = policy.engine.prefill([request.prompt_ids], lanes=ANSWERS, block=longest, max_new=longest)
    start = session.hidden[0, :1].float().cpu()  # (1, H)
    parents = torch.zeros(1, ANSWERS, dtype=torch.long)
    block = sample_block(
        session,
        parents,
        samplers=[policy.sampler(request)],
        uniforms=request.uniforms(ANSWERS, longest).unsqueeze(0),
        max_tokens=[longest],
        stop_ids=policy.stop_ids,
        histories=[[list(request.prompt_ids)]],
    )
    tokens, lengths = block.tokens.cpu(), block.lengths.cpu()
    scorer = CandidateScorer(context, capacity=Capacity(lanes=ANSWERS, block=longest, max_new=longest))
    scorer.add_rows([request])
    (ends,) = scorer.judge(parents, tokens, lengths, block.finished.cpu())
    session.rollback()
    session.fork(parents)
    hidden = session.append(tokens.clamp(min=0), lengths)[0].float().cpu()  # (L, T, H)
    # A clone outside of inference mode is what autograd can train on.
    prefixes = [torch.cat([start, hidden[lane, : int(lengths[0, lane])]]).clone() for lane in range(ANSWERS)]
    return [Sampled(states, end, number) for states, end in zip(prefixes, ends.values(), strict=True)]


def fit(data: Rollouts, *, seed: int) -> ValueNet:
    """Regresses the end's score on every prefix; stops when held-out prompts no longer improve.

    Args:
        data: At least two prompts' worth; every fifth prompt (at least one) is held out.
        seed: Of weights and batches.
    """
    prompts = sorted(set(data.prompt.tolist()))
    held = torch.isin(data.prompt, torch.tensor(prompts[:: max(2, min(5, len(prompts)))]))
    x, y = data.features[~held], data.targets[~held]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ValueNet(x.shape[1])
    net.mean.copy_(x.mean(dim=0))
    net.scale.copy_(x.std(dim=0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    best, state, waited = float("inf"), net.state_dict(), 0
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            loss = float(nn.functional.mse_loss(net(data.features[held]), data.targets[held]))
        if loss < best:
            best, waited = loss, 0
            state = {name: value.clone() for name, value in net.state_dict().items()}
        else:
            waited += 1
            if waited == PATIENCE:
                break
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)
