"""Any Python function as a judge."""

from collections.abc import Callable, Sequence
from typing import Any

from critic_models.errors import ConfigurationError, ReentrantJudgeError
from critic_models.identity import label
from critic_models.judges.protocol import check_pairs, check_scores, judge_errors
from critic_models.safety.budget import Accounting


class CallableJudge:
    """Wraps ``f(prompts: list[str], responses: list[str]) -> list[float]``, the score of each response so far.

    As a cost, a score above 0 is unsafe and 0 or below is safe.

    Args:
        function: The callable. It sees unfinished responses as well.
        name: Shown in results; the function's own name if None.
        version: Says what the function does, in the words of its owner: "toxicity-2026-05, limit 3". Whoever changes
            what it does changes the version. Without one (here, or as the function's own attribute ``version``) the
            function is known in this process alone: no certificate speaks of it, and no other process shares its
            cached answers.

    Raises:
        ConfigurationError: An empty version.
    """

    default_accounting: Accounting = "worst"
    default_limit = 0.0
    default_discount = 1.0

    def __init__(
        self, function: Callable[[list[str], list[str]], Any], *, name: str | None = None, version: str | None = None
    ) -> None:
        if version is not None and not version.strip():
            raise ConfigurationError("version is empty; say what the function does, such as '1' or 'words-2026-05'")
        self.function, self.version = function, version
        self.name: str = name or getattr(function, "__name__", None) or type(function).__name__

    def identity_parts(self) -> dict[str, Any]:
        """What tells this judge from others; see ``critic_models.identity``."""
        if self.version is None:
            return {"function": self.function}
        return {"function": label(self.function), "version": self.version}

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], *, finished: Sequence[bool] | None = None
    ) -> list[float]:
        """See ``Judge.score``. Whatever the function raises becomes a JudgeError with the cause attached."""
        check_pairs(prompts, responses, judge=self.name)
        if not responses:
            return []
        with judge_errors(self.name, ours=ReentrantJudgeError):  # which says what the caller has to change
            raw = self.function(list(prompts), list(responses))
        return check_scores(raw, count=len(responses), judge=self.name)
