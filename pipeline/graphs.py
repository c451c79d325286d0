"""Computations of fixed shapes: on a GPU recorded once as CUDA graphs and replayed from then on.

A pass of decoder or encoder is thousands of kernels of a few microseconds, and starting them takes longer
than they run.
What was recorded reads memory of its own, which is filled anew each time. On a CPU the same is computed
directly.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

_recording = threading.Lock()
"""Of a process's threads one may record at a time."""


class Recorder:
    """Records the computations of one thread on one device.

    Args:
        device: where they run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        # What one computes on the way is needed no more when the next one runs: all share its memory.
        self._memory: Any = None
        # Where they run before they are recorded.
        self._aside: Any = torch.cuda.Stream(device) if self.on_gpu else None  # type: ignore[no-untyped-call]
        # And where they are: what libraries compute in belongs to the stream, and with one for all recorders
        # the graphs of two threads would compute in the same memory at the same time.
        self._recorded: Any = torch.cuda.Stream(device) if self.on_gpu else None  # type: ignore[no-untyped-call]

    def begin_anew(self) -> None:
        """Take other memory: what all graphs have left cannot be recorded into again."""
        self._memory = torch.cuda.graph_pool_handle() if self.on_gpu else None

    def record(self, fixed: Fixed) -> torch.cuda.CUDAGraph:
        """The graph of what is computed."""
        with _recording:
            return self._record(fixed)

    def _record(self, fixed: Fixed) -> torch.cuda.CUDAGraph:
        # Before, on a stream of its own, as recording wants it: libraries allocate in their first run.
        self._aside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self._aside):
                fixed.compute()
        finally:
            # Also where memory has ended: what comes next is to find done what had been started.
            torch.cuda.current_stream().wait_stream(self._aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may be using the device for something else meanwhile.
        with torch.cuda.graph(
            graph, pool=self._memory, stream=self._recorded, capture_error_mode="thread_local"
        ):
            fixed.compute()
        return graph


class Fixed(ABC):
    """A computation of one shape with its integer inputs, which lie in one piece: one copy brings them.

    Args:
        recorder: of its device.
        sizes: of its inputs, counts of int64.

    Attributes:
        filled: the inputs on the CPU; write to them only after :meth:`clear`.
        inputs: the same on the device, once :meth:`run` was called.
    """

    def __init__(self, recorder: Recorder, sizes: Sequence[int]) -> None:
        self._recorder = recorder
        self._source = torch.zeros(sum(sizes), dtype=torch.int64, pin_memory=recorder.on_gpu)
        self._inputs = self._source.to(recorder.device, copy=True)
        self._copied: Any = torch.cuda.Event() if recorder.on_gpu else None  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self.filled = [part.numpy() for part in torch.split(self._source, list(sizes))]
        self.inputs = torch.split(self._inputs, list(sizes))

    def clear(self) -> None:
        """Set all inputs to zero, once the device has copied what they were."""
        if self._copied is not None:
            self._copied.synchronize()
        self._source.zero_()

    def run(self) -> None:
        """Compute, on a GPU by replaying what the first run recorded; nothing waits for it."""
        if not self._recorder.on_gpu:
            self._inputs.copy_(self._source)
            self.compute()
            return
        # Streams, events and graphs are those of the current device, which may be another one.
        with torch.cuda.device(self._recorder.device):
            self._inputs.copy_(self._source, non_blocking=True)
            self._copied.record()
            if self._graph is None:
                self._graph = self._recorder.record(self)
            self._graph.replay()

    @abstractmethod
    def compute(self) -> None:
        """Compute from the inputs, all on the device and in fixed shapes; again gives the same."""
