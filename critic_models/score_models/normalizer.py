"""The score normaliser of Safe-RLHF checkpoints, for inference and for gathering its statistics."""

import torch
from torch import Tensor, nn

from critic_models.score_models.settings import ScoreSettings


class Normalizer(nn.Module):
    """Running statistics of the scores: buffers ``mean`` (1,), ``var`` (1,) and ``count`` (1,).

    Rewards become (x - mean) / (√var + 1e-8), costs x / (√var + 1e-8) so that their sign stays, and critics
    stay as they are.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, settings: ScoreSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.full((1,), settings.mean or 0.0))
        self.register_buffer("var", torch.full((1,), 1.0 if settings.var is None else settings.var))
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))

    def forward(self, scores: Tensor) -> Tensor:
        """Scores of any shape (...), normalised if the checkpoint says so."""
        if not self.settings.normalizes:
            return scores
        if self.settings.score_type == "reward":
            scores = scores - self.mean.to(scores.device)
        return scores / (self.var.to(scores.device).sqrt() + 1e-8)

    @torch.no_grad()
    def update(self, scores: Tensor) -> None:
        """Takes a batch of end scores (B,) into the statistics; used while training."""
        scores = scores.detach().float().flatten()
        if self.settings.normalizer_type is None or scores.numel() == 0:
            return
        mean, var, seen = scores.mean(), scores.var(unbiased=False), scores.numel()
        if int(self.count) == 0:
            self.mean.fill_(mean)
            self.var.fill_(var)
        elif self.settings.normalizer_type == "ExponentialMovingAverage":
            keep = 0.9 if self.settings.momentum is None else self.settings.momentum
            self.mean.mul_(keep).add_(mean, alpha=1 - keep)
            self.var.mul_(keep).add_(var, alpha=1 - keep)
        else:
            old, total = self.count.float(), self.count.float() + seen
            delta = mean - self.mean
            self.var.copy_((self.var * old + var * seen + delta.square() * old * seen / total) / total)
            self.mean.add_(delta * seen / total)
        self.count.add_(seen)
