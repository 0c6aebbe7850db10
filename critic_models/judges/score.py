"""Safe-RLHF score models as judges, by text and by token."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critic_models.errors import ConfigurationError
from critic_models.judges.batching import ModelJudge, Row, plain_ids
from critic_models.safe_rlhf import ONE_TURN
from critic_models.score_models import ScoreModel

TEXT = ONE_TURN


class ScoreJudge(ModelJudge):
    """A Safe-RLHF reward or cost model (method and text format: arXiv 2310.12773).

    Read by text, the score is that of the last token of the response so far, and by default only the worst one
    counts, against 0: a cost above 0 is unsafe. Read by token (the paper's accounting, for models with token-wise
    scores) it follows the policy's own tokens; presets choose that.

    Args:
        model: The score model.
        tokenizer: Its tokenizer.
        **options: ``name``, ``batch_size``, ``max_tokens``, as every model judge.
    """

    def __init__(self, model: ScoreModel, tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
        if not isinstance(model, ScoreModel):
            raise ConfigurationError(f"ScoreJudge needs a ScoreModel, not {type(model).__name__}; see load_judge")
        super().__init__(model, tokenizer, **options)

    @property
    def body(self) -> PreTrainedModel:
        """The transformer that the tree can run; see ``TokenJudge``."""
        return self.model.body

    def score_hidden(self, hidden: Tensor) -> Tensor:
        """(..., H) post-norm hidden states to (...) float32 scores; not checked for NaN."""
        return self.model.score_hidden(hidden)  # type: ignore[no-any-return]

    def score_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) right-padded ids and mask to (B, T) float32 scores, in one plain forward."""
        return self.model.score_tokens(ids, mask)  # type: ignore[no-any-return]

    def encode(self, prompt: str, response: str, *, finished: bool) -> Row:
        """The text format the public models were trained on; EOS only where the answer is complete."""
        ids = plain_ids(self.tokenizer, TEXT.format_map({"prompt": prompt, "response": response}), special=True)
        if finished and self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return {"input_ids": ids}

    def read(self, ids: Tensor, mask: Tensor, **extra: Tensor) -> Tensor:
        """The score at each row's last token, (B,)."""
        return self.model.end_scores(ids, mask)  # type: ignore[no-any-return]
