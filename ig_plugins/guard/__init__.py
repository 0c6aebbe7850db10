"""The facade: text in, verified result out."""

from ig_plugins.guard.components import Components
from ig_plugins.guard.facade import InferenceGuard
from ig_plugins.guard.options import Options
from ig_plugins.guard.request_handle import GuardChunk
from ig_plugins.guard.result import BlockRecord, GuardResult, Usage

__all__ = ["BlockRecord", "Components", "GuardChunk", "GuardResult", "InferenceGuard", "Options", "Usage"]
