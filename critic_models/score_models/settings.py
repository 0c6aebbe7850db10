"""What config.json of a Safe-RLHF score model says beyond its body."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from critic_models.errors import ModelLoadError
from critic_models.validation import explain

ScoreType = Literal["reward", "cost", "critic"]
NormalizerType = Literal["RunningMeanStd", "ExponentialMovingAverage"]


class ScoreSettings(BaseModel):
    """The score head's part of config.json (method and layout: Safe-RLHF, arXiv 2310.12773).

    The head's bias is ``score_bias``. Public configs carry ``"bias": false`` as well, which is about something else
    and is not read. ``score_type`` only picks how scores are normalised: it never says which sign is good, since a
    public cost model (beaver-7b-v1.0-cost) calls itself a reward.

    Attributes:
        score_dim: Scores a token; 1.
        score_bias: Whether the head has a bias.
        score_type: ``reward``, ``cost`` or ``critic``.
        do_normalize: Whether scores are normalised; false in every public checkpoint.
        normalizer_type: How the statistics were gathered; None for no normaliser, so raw scores whatever else is said.
        momentum: Of the exponential moving average, in [0, 1].
        mean: The normaliser's starting mean, used where the checkpoint stores none.
        var: The same for the variance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    score_dim: Literal[1] = 1
    score_bias: bool = True
    score_type: ScoreType = "reward"
    do_normalize: bool = False
    normalizer_type: NormalizerType | None = None
    momentum: float | None = Field(default=None, ge=0.0, le=1.0)
    mean: float | None = Field(default=None, allow_inf_nan=False)
    var: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)

    @field_validator("mean", "var", mode="before")
    @classmethod
    def _one_number(cls, value: object) -> object:
        """Statistics are written as a number or as a list with one number per score."""
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    @property
    def normalizes(self) -> bool:
        """Whether scores are changed at all."""
        return self.do_normalize and self.normalizer_type is not None and self.score_type != "critic"

    @classmethod
    def read(cls, config: dict[str, Any], *, source: str) -> "ScoreSettings":
        """The settings inside a whole config.json; keys that belong to the body are left alone.

        Raises:
            ModelLoadError: A value that the layout does not know.
        """
        try:
            return cls(**{key: config[key] for key in cls.model_fields if key in config})
        except ValidationError as error:
            raise ModelLoadError(
                f"{source}: config.json does not describe a score model ({explain(error)}). "
                "Correct it by hand, or load another checkpoint"
            ) from error
