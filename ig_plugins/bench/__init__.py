"""How fast a search on the token tree is, against transformers' `generate` on the same weights in the same process."""

from ig_plugins.bench.case import Case
from ig_plugins.bench.run import block_times, curve, run, run_tuned, sampling

__all__ = ["Case", "block_times", "curve", "run", "run_tuned", "sampling"]
