"""Rollouts of a frozen policy as tensors, and what a budget makes of them."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from critic_models.errors import ConfigurationError


@dataclass(frozen=True)
class RolloutData:
    """Responses sampled by the policy, one row per token; all on the CPU.

    Rows of a response stand together, in order.

    Attributes:
        features: The hidden state after each response token, captured while decoding, shape (N, H).
        response: Which of the R responses a row belongs to, shape (N,).
        position: Index of the token in its response, from 0, shape (N,).
        costs: Cost of the token (cumulative) or score of the response so far (worst), shape (N, C).
        reward: The end reward of each response, shape (R,).
        prompt: Which prompt each response answers, shape (R,).
    """

    features: Tensor
    response: Tensor
    position: Tensor
    costs: Tensor
    reward: Tensor
    prompt: Tensor

    def __post_init__(self) -> None:
        rows, responses = len(self.features), len(self.reward)
        if self.features.ndim != 2 or self.costs.ndim != 2:
            raise ConfigurationError(
                f"features are {tuple(self.features.shape)} and costs {tuple(self.costs.shape)}; give (N, H) and (N, C)"
            )
        wanted = {"response": rows, "position": rows, "costs": rows, "prompt": responses}
        for name, length in wanted.items():
            if len(getattr(self, name)) != length:
                raise ConfigurationError(f"{name} has {len(getattr(self, name))} entries, but there must be {length}")
        if rows == 0:
            raise ConfigurationError("there are no rollouts; sample some responses first")
        for name in ("features", "costs", "reward"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise ConfigurationError(
                    f"{name} of the rollouts hold NaN or infinity; find the judge or model that did it"
                )
        if int(self.response.min()) < 0 or int(self.response.max()) >= responses:
            raise ConfigurationError(
                f"response has indices outside 0 to {responses - 1}, the responses that have a reward"
            )
        fresh = torch.ones(rows, dtype=torch.bool)
        fresh[1:] = self.response[1:] != self.response[:-1]
        steps = torch.where(fresh[1:], 0, self.position[:-1] + 1)
        ordered = int(self.position[0]) == 0 and bool((self.position[1:] == steps).all())
        if not ordered or len(torch.unique(self.response[fresh])) != int(fresh.sum()):
            raise ConfigurationError("rows must stand response by response, with positions 0, 1, 2, ... in each")

    @property
    def lengths(self) -> Tensor:
        """Tokens of each response, shape (R,)."""
        return torch.bincount(self.response, minlength=len(self.reward))

    def mean_hidden(self) -> Tensor:
        """The mean of the features over each response up to each row, float32, shape (N, H)."""
        means = torch.empty(self.features.shape)
        for part in torch.split(
            torch.arange(len(means)), torch.unique_consecutive(self.response, return_counts=True)[1].tolist()
        ):
            means[part] = self.features[part].float().cumsum(dim=0) / (self.position[part] + 1).unsqueeze(1)
        return means

    def fingerprint(self) -> str:
        """A short hash of everything in it."""
        digest = hashlib.sha256()
        for name in ("features", "response", "position", "costs", "reward", "prompt"):
            tensor: Tensor = getattr(self, name)
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


class Ledger:
    """What every response spends, so that its safety states under any budget are one subtraction away.

    With P_m = Σ_{k<m} γ^k c_k the state after m tokens is z_m = γ^-m (d - P_m) (paper, section 3), so the response is
    safe at every step exactly if d > max P_m. In the worst-case accounting z_m = d - max_{k<m} S_k, +inf before.

    Args:
        data: The rollouts.
        cost: Index of the cost.
        accounting: ``cumulative`` or ``worst``.
        discount: γ.
        terminal: Whether only the last state counts (cumulative).
    """

    def __init__(self, data: RolloutData, cost: int, *, accounting: str, discount: float, terminal: bool) -> None:
        self.cumulative, self.discount = accounting == "cumulative", discount
        lengths, position = data.lengths, data.position
        width = int(lengths.max())
        grid = torch.full((len(lengths), width), 0.0 if self.cumulative else -torch.inf, dtype=torch.float64)
        values = data.costs[:, cost].to(torch.float64)
        if self.cumulative:
            values = values * torch.tensor(discount, dtype=torch.float64) ** position
        grid[data.response, position] = values
        spent = grid.cumsum(dim=1) if self.cumulative else grid.cummax(dim=1).values
        nothing = torch.full((len(lengths), 1), 0.0 if self.cumulative else -torch.inf, dtype=torch.float64)
        self.spent = torch.cat([nothing, spent], dim=1)  # (R, width + 1): P_m, or the highest score of m tokens
        last = self.spent.gather(1, lengths.unsqueeze(1)).squeeze(1)
        peak = self.spent[:, 1:].masked_fill(torch.arange(width) >= lengths.unsqueeze(1), -torch.inf).amax(dim=1)
        self.need = last if terminal and self.cumulative else peak  # (R,): the budget that the response takes

    def safe(self, response: Tensor, limit: Tensor) -> Tensor:
        """Whether responses keep within their limits; both arguments and the result of shape (n,)."""
        return self.need[response] < limit if self.cumulative else self.need[response] <= limit

    def state(self, response: Tensor, tokens: Tensor, limit: Tensor) -> Tensor:
        """The safety state after so many tokens.

        Args:
            response: Shape (n,).
            tokens: How many tokens are measured, shape (n,); 0 is the start.
            limit: The initial budget d, shape (n,).

        Returns:
            float64, shape (n,).
        """
        left = limit.to(torch.float64) - self.spent[response, tokens]
        return left * torch.tensor(self.discount, dtype=torch.float64) ** -tokens if self.cumulative else left
