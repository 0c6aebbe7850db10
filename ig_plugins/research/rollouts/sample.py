"""Sampling whole responses on the tree, with the hidden state and the cost of every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ig_plugins.engine import TreeSession, sample_block
from ig_plugins.guard.components import Components
from ig_plugins.search import Capacity, Request
from ig_plugins.search.scoring.judge_session import JudgeSession
from ig_plugins.search.text import LaneText
from ig_plugins.search.verifier import costs_of


@dataclass(frozen=True)
class Rollout:
    """One response of the policy.

    Attributes:
        tokens: Shape (T,).
        features: The policy's hidden state after each token, captured while decoding, shape (T, H).
        costs: Per token and cost model, shape (T, C); a judge of texts scores the ends of blocks: its cost
            stands there alone (cumulative), or at every token of the block (worst).
        reward: Of the whole response.
        finished: Ended by itself rather than at the longest length.
    """

    tokens: Tensor
    features: Tensor
    costs: Tensor
    reward: float
    finished: bool


@torch.inference_mode()
def sample_rollouts(parts: Components, requests: Sequence[Request], *, responses: int) -> list[list[Rollout]]:
    """Samples plain responses of the policy, all prompts and responses on one batch of trees.

    Args:
        parts: Policy, costs and reward. Its critic is not used.
        requests: B prompts; ``search`` gives block size, longest answer and sampling.
        responses: L, responses per prompt.

    Returns:
        For each prompt its L rollouts.
    """
    return _Sampling(parts, requests, responses).run()


class _Sampling:
    def __init__(self, parts: Components, requests: Sequence[Request], responses: int) -> None:
        size = Capacity.of(requests)
        capacity = Capacity(lanes=responses, block=size.block, max_new=size.max_new)
        self.components, self.requests, self.lanes, self.capacity = parts, requests, responses, capacity
        self.session: TreeSession = parts.policy.engine.prefill(
            [request.prompt_ids for request in requests], lanes=responses, block=size.block, max_new=size.max_new
        )
        self.costs, self.reward = parts.judge_sessions(capacity)
        for judge in self._judges():
            judge.add_rows(requests)
        shape = (len(requests), responses)
        self.tokens: list[list[list[int]]] = [[[] for _ in range(responses)] for _ in requests]
        self.features: list[list[list[Tensor]]] = [[[] for _ in range(responses)] for _ in requests]
        self.scores: list[list[list[Tensor]]] = [[[] for _ in range(responses)] for _ in requests]
        self.last = torch.zeros(*shape, len(self.costs), dtype=torch.float64)  # the last scores of judges of texts
        self.rewards = torch.zeros(shape)
        self.finished = torch.zeros(shape, dtype=torch.bool)

    def run(self) -> list[list[Rollout]]:
        longest = max(request.search.max_new_tokens for request in self.requests)
        parents = torch.zeros(len(self.requests), self.lanes, dtype=torch.long)
        depth = 0
        while depth < longest and not self.finished.all():
            size = min(self.capacity.block, longest - depth)
            self._block(parents, size)
            depth += size
            parents = torch.arange(self.lanes).expand(len(self.requests), -1)
        return [[self._rollout(row, lane) for lane in range(self.lanes)] for row in range(len(self.requests))]

    def _block(self, parents: Tensor, size: int) -> None:
        """Every unfinished response grows by one block; all of them stay."""
        room = torch.where(self.finished, 0, size)
        for row, request in enumerate(self.requests):
            depth = max(len(tokens) for tokens in self.tokens[row])
            room[row].clamp_(max=max(request.search.max_new_tokens - depth, 0))
        uniforms = torch.stack([request.uniforms(self.lanes, size) for request in self.requests])
        block = sample_block(
            self.session,
            parents,
            samplers=[self.components.policy.sampler(request) for request in self.requests],
            uniforms=uniforms,
            max_tokens=room,
            stop_ids=self.components.policy.stop_ids,
            histories=[
                [[*request.prompt_ids, *tokens] for tokens in self.tokens[row]]
                for row, request in enumerate(self.requests)
            ],
            keep_states=True,
        )
        states = block.states.float().cpu()  # (B, L, T, H): after each token of the block
        lengths, tokens = block.lengths.cpu(), block.tokens.cpu()
        self.finished |= block.finished.cpu()
        for row, lane in lengths.nonzero().tolist():
            length = int(lengths[row, lane])
            self.tokens[row][lane] += tokens[row, lane, :length].tolist()
            self.features[row][lane].append(states[row, lane, :length])
        everyone = torch.arange(self.lanes).expand(len(self.requests), -1)
        self._judge(parents, tokens, lengths)
        for judge in self._judges():
            judge.advance(everyone)
        self.session.select(everyone)

    def _judge(self, parents: Tensor, tokens: Tensor, lengths: Tensor) -> None:
        found = [session.score(parents, tokens.clamp(min=0), lengths, self._text) for session in self.costs]
        for row, lane in lengths.nonzero().tolist():
            length, columns = int(lengths[row, lane]), []
            for cost, (session, scores) in enumerate(zip(self.costs, found, strict=True)):
                budget = self.requests[row].budgets[cost]
                values = scores.values[row, lane, : int(scores.lengths[row, lane])]
                before = self.last[row, lane, cost].clone()
                self.last[row, lane, cost] = values[-1]
                spent = costs_of(values, before, budget, whole=session.reads_text)
                columns.append(_per_token(spent.float(), length, budget.accounting))
            self.scores[row][lane].append(torch.stack(columns, dim=-1))
        if self.reward is not None:
            scores = self.reward.score(parents, tokens.clamp(min=0), lengths, self._text)
            for row, lane in lengths.nonzero().tolist():
                self.rewards[row, lane] = scores.values[row, lane, int(scores.lengths[row, lane]) - 1]

    def _text(self, row: int, lane: int) -> LaneText:
        ids = [*self.requests[row].prefill_ids, *self.tokens[row][lane]]
        return LaneText(self.components.policy.detokenizer.text(ids), bool(self.finished[row, lane]))

    def _judges(self) -> list[JudgeSession]:
        return [*self.costs, *([self.reward] if self.reward else [])]

    def _rollout(self, row: int, lane: int) -> Rollout:
        return Rollout(
            tokens=torch.tensor(self.tokens[row][lane]),
            features=torch.cat(self.features[row][lane]),
            costs=torch.cat(self.scores[row][lane]),
            reward=float(self.rewards[row, lane]),
            finished=bool(self.finished[row, lane]),
        )


def _per_token(scores: Tensor, length: int, accounting: str) -> Tensor:
    """One cost a token: a judge of texts gives one a block, which stands at the block's end."""
    if len(scores) == length:
        return scores
    if accounting == "worst":
        return scores[-1:].expand(length)
    return torch.cat([torch.zeros(length - 1), scores[-1:]])
