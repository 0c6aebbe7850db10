"""Steps that a GPU repeats without being told their parts again: CUDA graphs.

A decoding step is some hundred launches, which take the host longer than the weights take the GPU to read. A step that
is the same work on the same tensors every time is recorded once and then launched as a whole. A recording is trusted
after the first one of a model has shown what the step itself shows; whatever goes wrong before that, steps run as they
are, and only take longer.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ig_plugins.engine.forward.numerics import difference, tolerance

logger = logging.getLogger(__name__)

Step = Callable[[], None]
WORTH = 4  # repetitions from which a recording, which takes about as long as two steps, is worth it


class StepRecorder:
    """Records the steps of one model on one device.

    Args:
        record: Makes of a step what repeats it, without running it.

    Attributes:
        trusted: Whether a recording has shown what the step shows.
    """

    def __init__(self, record: Callable[[Step], Step]) -> None:
        self._record = record
        self.trusted = False
        self._usable = True

    @classmethod
    def of(cls, model: torch.nn.Module) -> "StepRecorder | None":
        """A recorder, or None for a model that is not on one CUDA device: a graph holds the work of one."""
        device, *others = {parameter.device for parameter in model.parameters()}
        return None if others or device.type != "cuda" else cls(_CudaGraphs(device))

    def recorded(self, step: Step, states: Sequence[Tensor]) -> Step:
        """Run a step twice and record it.

        Args:
            step: Device work on tensors that live as long as it does; it looks at nothing and makes nothing to keep.
            states: All that a step reads and changes, but for what it only ever overwrites with the same.

        Returns:
            What does the same as the step; the step itself where it cannot be recorded.
        """
        if self.trusted and self._usable:  # the host's work on a step is as long as several replays: do it once
            repeated = self._recording(step) or step
            repeated()
            repeated()
            return repeated
        step()
        replay = self._recording(step) if self._usable else None
        if replay is None:
            step()
            return step
        before = [state.clone() for state in states]
        replay()
        shown = [state.clone() for state in states]
        for state, old in zip(states, before, strict=True):
            state.copy_(old)
        step()
        self.trusted = all(_same(mine, plain) for mine, plain in zip(shown, states, strict=True))
        if not self.trusted:
            self._give_up("it does not show what the step shows", None)
        return replay if self.trusted else step

    def _recording(self, step: Step) -> Step | None:
        try:
            return self._record(step)
        except RuntimeError as reason:  # what CUDA says to work that a graph cannot hold, such as a look at a value
            self._give_up("the step cannot be recorded", reason)
            return None

    def _give_up(self, why: str, reason: Exception | None) -> None:
        self._usable = False
        logger.warning("Decoding goes on without CUDA graphs and is slower: %s.", why, exc_info=reason)


class _CudaGraphs:
    """Records with torch's graphs, the newest of which is kept, because the memory that they all use goes with it."""

    def __init__(self, device: torch.device) -> None:
        self._newest: torch.cuda.CUDAGraph | None = None
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, step: Step) -> Step:
        """Not by `torch.cuda.graph`, which waits for the device and gives all cached memory back at every recording."""
        graph, pool = torch.cuda.CUDAGraph(), None if self._newest is None else self._newest.pool()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")  # other threads may use the device
            try:
                step()
            finally:
                graph.capture_end()
        self._newest = graph
        return graph.replay


def _same(mine: Tensor, plain: Tensor) -> bool:
    if mine.is_floating_point():
        return difference(mine, plain) <= tolerance(mine.dtype)
    return torch.equal(mine, plain)
