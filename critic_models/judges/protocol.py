"""What a judge is: text in, the score of the response so far out."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from critic_models.errors import InferenceGuardError, JudgeError
from critic_models.safety.budget import Accounting

Kind = Literal["cost", "reward"]
LARGEST = 1e30
"""The largest score. Sums of larger ones overflow, and an infinite balance would no longer know what was spent."""


@runtime_checkable
class Judge(Protocol):
    """Scores responses. As a cost, higher is worse; as a reward, higher is better.

    Attributes:
        name: Shown in results.
        default_accounting: How its cost is counted unless the budget says otherwise.
        default_limit: The limit d unless the budget says otherwise.
        default_discount: γ unless the budget says otherwise.
    """

    name: str
    default_accounting: Accounting
    default_limit: float
    default_discount: float

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], *, finished: Sequence[bool] | None = None
    ) -> list[float]:
        """Scores each response so far.

        Args:
            prompts: B texts that were asked.
            responses: B answers, or the parts of them that exist yet.
            finished: Which of them are complete; None if that is not known.

        Returns:
            B finite numbers.

        Raises:
            JudgeError: Anything else happened. Never NaN, never a wrong length.
        """


@runtime_checkable
class TokenJudge(Judge, Protocol):
    """A judge that can also follow the token tree, because its score is a function of each token's hidden state.

    Attributes:
        body: Transformer without a head; its ``last_hidden_state`` is post-norm.
        tokenizer: The body's; the tree is shared when it is the policy's as well.
    """

    body: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def score_hidden(self, hidden: Tensor) -> Tensor:
        """(..., H) hidden states to (...) float32 scores; not checked for NaN."""

    def score_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) right-padded ids and their mask to (B, T) float32 scores, in one plain forward."""


def check_pairs(prompts: Sequence[str], responses: Sequence[str], *, judge: str) -> None:
    """Refuses a call that does not pair every response with its prompt.

    Raises:
        JudgeError: Different lengths, or a bare string instead of a list.
    """
    if isinstance(prompts, str) or isinstance(responses, str):
        raise JudgeError(f"judge {judge!r} was given a string; give lists with one prompt and one response each")
    if len(prompts) != len(responses):
        raise JudgeError(f"judge {judge!r} was given {len(prompts)} prompts and {len(responses)} responses")


@contextmanager
def judge_errors(judge: str, *, ours: type[InferenceGuardError] = InferenceGuardError) -> Iterator[None]:
    """Whatever is raised inside becomes a JudgeError with the cause attached.

    Args:
        judge: Its name, for the message. The cause's own text may quote the prompt, so only its type is named.
        ours: Errors that stay as they are, as they quote nobody.

    Raises:
        JudgeError: Anything was raised.
    """
    try:
        yield
    except ours:
        raise
    except Exception as error:
        raise JudgeError(f"judge {judge!r} raised {type(error).__name__}; see the cause above") from error


def check_scores(raw: Any, *, count: int, judge: str) -> list[float]:
    """Turns what a judge returned into floats, or refuses it.

    Args:
        raw: A list, tuple, array or tensor.
        count: How many scores there must be.
        judge: Its name, for the message.

    Raises:
        JudgeError: Not one finite number per response.
    """
    values = _plain(raw, "tolist", judge=judge)
    if not isinstance(values, list | tuple):
        raise JudgeError(
            f"judge {judge!r} returned {type(raw).__name__}; it must return a list with one number per response"
        )
    if len(values) != count:
        raise JudgeError(
            f"judge {judge!r} returned {len(values)} scores for {count} responses; it must return one number for each"
        )
    scores = []
    for index, value in enumerate(values):
        scores.append(_score(_plain(value, "item", judge=judge), index, judge=judge))
    return scores


def _plain(value: Any, way: str, *, judge: str) -> Any:
    """A tensor's or an array's plain value, by its own method; other things as they are."""
    try:
        return getattr(value, way)() if hasattr(value, way) else value
    except Exception as error:  # several values where there should be one, or a device that fails
        raise JudgeError(f"judge {judge!r} returned a {type(value).__name__} that cannot be read") from error


def _score(value: Any, index: int, *, judge: str) -> float:
    advice = f"every score must be a finite number, between -{LARGEST:g} and {LARGEST:g}"
    if not isinstance(value, Real):
        raise JudgeError(f"judge {judge!r} scored response {index} as {type(value).__name__}; {advice}")
    try:
        score = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        score = math.inf
    if not abs(score) <= LARGEST:  # NaN, too
        raise JudgeError(f"judge {judge!r} scored response {index} as {score}; {advice}")
    return score
