"""What can be set about the search."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SearchConfig(BaseModel):
    """The search's knobs, in the paper's letters where it has one (section 4).

    Attributes:
        candidates: N, lanes sampled per block and prompt.
        beams: K, lanes kept after a block.
        block_tokens: d, tokens per block.
        max_new_tokens: D, the longest answer.
        tries: M, how often a block is sampled before giving up when no candidate is judged safe.
        temperature: Softmax temperature; 0 is greedy.
        top_k: Draw among the k most likely tokens; 0 for all.
        top_p: Draw inside the nucleus of this mass; 1.0 for all.
        min_p: Draw among tokens at least this share as likely as the most likely one; 0 for all.
        repetition_penalty: As in transformers; 1.0 for none.
        retry_penalty: Taken off the logit of tokens that failed candidates used at the same block position.
        stratified: The lanes of a beam draw from even shares of the distribution instead of independently, so that
            fewer of them repeat one another; each is still an exact sample of the policy.
        selection: How the answer is picked among verified ones: the highest ``reward``, or ``hedged``, a reward
            discounted for being an extreme among many (see docs/methods.md).
        adaptive: ``off`` always searches in full; ``on`` runs few lanes while the critic is sure of a safe end and the
            budget is comfortable, and takes the block back and searches in full where it is not; ``auto`` as the
            guard's preset says, and off without one.
        calm_candidates: Lanes of a block that an adaptive search tries first; the best one of them goes on.
        schedule: Candidates of the first block, the second, and so on; the last entry counts for all that follow.
            Empty for ``candidates`` throughout.
        max_lag: Beams and finished answers must share their path up to this many blocks ago, so that a stream is
            never further behind decoding. 0 settles every block at once: text streams soonest, and the search loses
            most (docs/performance.md, streams). The same for answers that are not streamed.
        seed: The generator's seed; None draws one, and the result says which.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: int = Field(default=16, ge=1, le=1024)
    beams: int = Field(default=4, ge=1)
    block_tokens: int = Field(default=16, ge=1)
    max_new_tokens: int = Field(default=128, ge=1)
    tries: int = Field(default=2, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    retry_penalty: float = Field(default=2.0, ge=0.0, allow_inf_nan=False)
    stratified: bool = True
    selection: Literal["reward", "hedged"] = "reward"
    adaptive: Literal["off", "on", "auto"] = "auto"
    calm_candidates: int = Field(default=6, ge=1)
    schedule: tuple[int, ...] = ()
    max_lag: int = Field(default=4, ge=0)
    seed: int | None = Field(default=None, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _beams_fit(self) -> "SearchConfig":
        if self.beams > self.candidates:
            raise ValueError(
                f"beams is {self.beams} and candidates {self.candidates}; "
                f"keep at most as many beams as there are candidates, for example beams={max(1, self.candidates // 4)}"
            )
        if any(not self.beams <= lanes <= 1024 for lanes in self.schedule):
            raise ValueError(
                f"schedule is {self.schedule}; every block needs at least as many candidates as beams "
                f"({self.beams}), and at most 1024"
            )
        return self

    def lanes(self, block: int) -> int:
        """Candidates of a block when it is searched in full."""
        return self.schedule[min(block, len(self.schedule) - 1)] if self.schedule else self.candidates

    @property
    def widest(self) -> int:
        """The most lanes that any block may have."""
        calm = [] if self.adaptive == "off" else [self.calm_candidates]
        return max([self.candidates, *self.schedule, *calm])
