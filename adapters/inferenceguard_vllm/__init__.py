"""A plugin for vLLM's server: it gives the hidden states of what a request sampled, for a guard's critic.

It stands beside vLLM, where nothing else of this project need be importable, and does nothing unless it is named:

    VLLM_PLUGINS=inferenceguard vllm serve MODEL --api-key KEY

vLLM calls `register` in each of its processes (``vllm.general_plugins``), and `endpoint` in the one that answers HTTP
(``vllm.endpoint_plugins``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferenceguard_vllm.route import StatesEndpoint

__all__ = ["NAME", "endpoint", "register"]

NAME = "inferenceguard"


def register() -> None:
    """Gives vLLM's workers the two methods that keep states and hand them out; nothing where nobody asked for them."""
    if NAME not in os.environ.get("VLLM_PLUGINS", "").split(","):
        return
    from vllm.v1.worker.worker_base import WorkerBase

    from inferenceguard_vllm.worker import read_states, start_states

    WorkerBase.inferenceguard_start_states = start_states
    WorkerBase.inferenceguard_read_states = read_states


def endpoint() -> StatesEndpoint:
    """The HTTP side; vLLM asks for it only where ``VLLM_PLUGINS`` names it."""
    from inferenceguard_vllm.route import StatesEndpoint

    return StatesEndpoint()
