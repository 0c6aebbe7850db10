"""How fast a search on the token tree is, against transformers' `generate` on the same weights in the same process."""

from ig_plugins.research.bench.case import Case
from ig_plugins.research.bench.device import DeviceBench, run_device
from ig_plugins.research.bench.run import block_times, run, run_tuned, sampling
from ig_plugins.research.bench.shape import Shape

__all__ = ["Case", "DeviceBench", "Shape", "block_times", "run", "run_device", "run_tuned", "sampling"]
