"""A probe on the policy's last states follows a search by the states that sampling left, and reads nothing again."""

from __future__ import annotations

import torch
from torch import Tensor

from critic_models.judges import TokenJudge
from ig_plugins.observing import watched
from ig_plugins.search.scoring.judge_session import RowsOfRequests, Scores, TextOf, TokenScores


class StateJudgeSession(RowsOfRequests, TokenScores):
    """A block is scored by the states that it left; text that the policy has not sampled is read in one plain forward.

    Args:
        judge: Its ``score_hidden`` takes the policy's states after the final norm.
    """

    reads_states = True

    def __init__(self, judge: TokenJudge) -> None:
        super().__init__()
        self.judge = judge

    def score(
        self, parents: Tensor, tokens: Tensor, lengths: Tensor, text_of: TextOf, states: Tensor | None = None
    ) -> Scores:
        """See `JudgeSession`. Only prefilled text has no states here; it stands right behind the prompt."""
        return self._read(tokens, lengths) if states is None else self._score_states(states, lengths)

    @torch.inference_mode()
    def _score_states(self, states: Tensor, lengths: Tensor) -> Scores:
        with watched("judge", self.judge.name, texts=lengths.numel()):
            values = self.judge.score_hidden(states).double().cpu()
        return self._scores(values, lengths)

    def _read(self, tokens: Tensor, lengths: Tensor) -> Scores:
        values = torch.zeros(tokens.shape, dtype=torch.float64)
        for row, lane in lengths.nonzero().tolist():
            length, prompt = int(lengths[row, lane]), self._requests[row].judge_ids
            ids = torch.tensor([[*prompt, *tokens[row, lane, :length].tolist()]], device=self.judge.body.device)
            with watched("judge", self.judge.name, texts=1):
                values[row, lane, :length] = self.judge.score_tokens(ids, torch.ones_like(ids))[0, -length:].double()
        return self._scores(values, lengths)
