"""The facade: text in, verified result out."""

from ig_plugins.guard.facade import InferenceGuard
from ig_plugins.guard.options import Options
from ig_plugins.guard.parts import Parts
from ig_plugins.guard.result import BlockRecord, GuardResult, Usage
from ig_plugins.guard.ticket import GuardChunk

__all__ = ["BlockRecord", "GuardChunk", "GuardResult", "InferenceGuard", "Options", "Parts", "Usage"]
