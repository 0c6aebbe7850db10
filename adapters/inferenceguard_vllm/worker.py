"""The two methods that vLLM's workers get.

Arguments and replies are plain values, which vLLM sends between processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inferenceguard_vllm.buffers import StateBuffers
from inferenceguard_vllm.capture import Capture

Reads = Sequence[tuple[str, Sequence[int]]]
"""(key, how many tokens of each lane)"""


def start_states(self: Any, most_bytes: int, seconds: float) -> int:
    """Begins to keep states, once.

    Args:
        self: vLLM's worker.
        most_bytes: See `StateBuffers`, as is the next.
        seconds: That they are kept.

    Returns:
        H.
    """
    if getattr(self, "inferenceguard_capture", None) is None:
        self.inferenceguard_capture = Capture(self.model_runner, StateBuffers(most_bytes=most_bytes, seconds=seconds))
        self.inferenceguard_capture.start()
    return int(self.model_runner.model_config.get_hidden_size())


def read_states(self: Any, reads: Reads) -> list[list[dict[str, Any]] | None]:
    """The states of some requests, see `StateBuffers.read`."""
    buffers = self.inferenceguard_capture.buffers
    return [buffers.read(key, lengths) for key, lengths in reads]
