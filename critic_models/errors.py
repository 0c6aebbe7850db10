"""The errors that a user can cause or meet. Each message names the value, what is allowed, and the next step."""


class InferenceGuardError(Exception):
    """Base of every error raised on purpose by this project."""


class ConfigurationError(InferenceGuardError, ValueError):
    """A setting that cannot mean anything: a zero block, a NaN budget, more beams than candidates."""


class ModelLoadError(InferenceGuardError):
    """A checkpoint that cannot be loaded: nothing there, unsafe format, wrong shapes, NaN weights."""


class MismatchError(ModelLoadError):
    """Two parts that do not belong together, such as a critic and another policy than its own."""


class UnsupportedModelError(ModelLoadError):
    """A model family that no decoding path can run exactly."""


class JudgeError(InferenceGuardError):
    """A judge that raised, was late, or returned something that is not one finite score per response."""


class JudgeTimeoutError(JudgeError, TimeoutError):
    """A judge that took longer for a call than ``judge_timeout`` allows, or of which too many calls never came back."""


class ReentrantJudgeError(JudgeError):
    """A judge that asked a guard which would have to ask this very judge again, and so on for ever."""
