"""A probe on the policy's last states follows a search by the states that sampling left, and reads nothing again."""

from __future__ import annotations

import torch
from torch import Tensor

from critic_models.judges import TokenJudge
from ig_plugins.observing import watched
from ig_plugins.search.scoring.judge_session import RowsOfRequests, Scores, TextOf, TokenScores


class StateJudgeSession(RowsOfRequests, TokenScores):
    """A block is scored by `score_states`; text that the policy has not sampled is read in one plain forward.

    Args:
        judge: Its ``score_hidden`` takes the policy's states after the final norm.
    """

    def __init__(self, judge: TokenJudge) -> None:
        super().__init__()
        self.judge = judge

    @torch.inference_mode()
    def score_states(self, states: Tensor, lengths: Tensor) -> Scores:
        """Scores the open block.

        Args:
            states: Shape (B, L, T, H), the policy's states at the block's tokens.
            lengths: Shape (B, L); lanes of length 0 are not judged.

        Raises:
            JudgeError: A score is not finite.
        """
        with watched("judge", self.judge.name, texts=lengths.numel()):
            values = self.judge.score_hidden(states).double().cpu()
        return self._scores(values, lengths)

    def score(self, parents: Tensor, tokens: Tensor, lengths: Tensor, text_of: TextOf) -> Scores:
        """See `JudgeSession`. Only prefilled text is asked about like this, which stands right behind the prompt."""
        values = torch.zeros(tokens.shape, dtype=torch.float64)
        for row, lane in lengths.nonzero().tolist():
            length, prompt = int(lengths[row, lane]), self._requests[row].judge_ids
            ids = torch.tensor([[*prompt, *tokens[row, lane, :length].tolist()]], device=self.judge.body.device)
            with watched("judge", self.judge.name, texts=1):
                values[row, lane, :length] = self.judge.score_tokens(ids, torch.ones_like(ids))[0, -length:].double()
        return self._scores(values, lengths)
