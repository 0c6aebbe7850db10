"""Where states are taken: in a worker, after each step of the model runner.

A step computes, for every sequence, the state from which its next token is drawn: that of the last token read. Both of
vLLM's model runners leave it in ``execute_model_state`` between their ``execute_model`` and ``sample_tokens``. The
first runner is measured on vLLM 0.32; the code for the second is written from its source and has never run with one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from inferenceguard_vllm.buffers import Lane, StateBuffers

logger = logging.getLogger("vllm.inferenceguard")

KEY, FIRST, COUNT = "inferenceguard_key", "inferenceguard_first", "inferenceguard_count"  # in a request's vllm_xargs
CHILD = re.compile(r"(\d+)_")  # how the name of one of n sequences of a request begins


class Capture:
    """Watches a model runner and keeps the states that requests ask for.

    Args:
        runner: vLLM's.
        buffers: Where they go.
    """

    def __init__(self, runner: Any, buffers: StateBuffers) -> None:
        self._runner, self.buffers = runner, buffers
        self._wanted: dict[str, tuple[str, Lane]] = {}  # by the sequence's name

    def start(self) -> None:
        """From now on, after every step."""
        execute = self._runner.execute_model

        def execute_model(*args: Any, **options: Any) -> Any:
            output = execute(*args, **options)
            if not options.get("dummy_run"):
                self._after(args[0] if args else options["scheduler_output"])
            return output

        self._runner.execute_model = execute_model

    def _after(self, step: Any) -> None:
        """What goes wrong here costs the guard its states, and vLLM nothing."""
        try:
            self.after(step)
        except Exception:
            logger.exception("states of this step are lost")
            for _, lane in self._wanted.values():
                lane.broken = "the plugin failed; vLLM's log says why"

    def after(self, step: Any) -> None:
        """Keeps the states of one step.

        Args:
            step: vLLM's ``SchedulerOutput``.
        """
        for name in step.finished_req_ids:
            self._wanted.pop(name, None)
        for new in step.scheduled_new_reqs:
            self._note(new.req_id, getattr(new.sampling_params, "extra_args", None) or {})
        state = self._runner.execute_model_state
        if not self._wanted or state is None:  # of the ranks of a pipeline only the last has states
            return
        names, states, why = (
            _second(self._runner, state) if hasattr(state, "input_batch") else _first(self._runner, state)
        )
        read = {new.req_id: new.num_computed_tokens for new in step.scheduled_new_reqs}
        cached = step.scheduled_cached_reqs
        read |= zip(cached.req_ids, cached.num_computed_tokens, strict=True)
        mine = [(row, name) for row, name in enumerate(names) if name in self._wanted]
        if why:
            for _, name in mine:
                self._wanted[name][1].broken = why
            return
        kept = states[[row for row, _ in mine]]
        for (_, name), state_of in zip(mine, kept, strict=True):
            key, lane = self._wanted[name]
            self.buffers.see(key, lane, read[name] + step.num_scheduled_tokens[name] - 1, state_of)

    def _note(self, name: str, asked: dict[str, Any]) -> None:
        key, first, count = asked.get(KEY), asked.get(FIRST), asked.get(COUNT)
        if name in self._wanted or not isinstance(key, str) or type(first) is not int or type(count) is not int:
            return
        child = CHILD.match(name)
        lane = self.buffers.open(key, int(child[1]) if child else 0, first=first, count=count)
        self._wanted[name] = key, lane


Found = tuple[Sequence[str], Tensor, str]
"""(sequences of a step, the state of each one's last token, why these are none)"""


def _first(runner: Any, state: Any) -> Found:
    """Of ``vllm.v1.worker.gpu_model_runner``, which the CPU's worker runs too."""
    why = "speculative decoding reads several tokens a step" if state.spec_decode_metadata is not None else ""
    return runner.input_batch.req_ids, state.sample_hidden_states, why


def _second(runner: Any, state: Any) -> Found:
    """Of ``vllm.v1.worker.gpu.model_runner``. Not measured: it needs Triton, and no such machine was at hand."""
    batch, why = state.input_batch, ""
    if batch.num_draft_tokens:
        why = "speculative decoding reads several tokens a step"
    if getattr(runner, "pcp_manager", None) is not None:
        why = "prefill context parallelism leaves each worker a part of the states"
    last = [int(end) - 1 for end in batch.query_start_loc_np[1 : batch.num_reqs + 1]]
    return batch.req_ids, state.hidden_states if why else state.hidden_states[last], why
