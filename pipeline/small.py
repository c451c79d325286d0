"""Small steps on the CPU, which are done in compiled kernels: which those are, and what kernels are given.

Both halves of the model have such (:mod:`pipeline.encoder.quick`, :mod:`pipeline.gemma.quick`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_HIDDEN = 256
"""Widest model: the bundled one, which is what was measured."""

MOST_THREADS = 2
"""Most threads of a process. The kernels run on one, so a process that has more is left to torch."""


def is_small(weight: Tensor, hidden: int, count: int, most: int) -> bool:
    """Whether a step is faster in a kernel: of a small model in float32, with one thread or two.

    Args:
        weight: one of the model's.
        hidden: its width; matrices that are worth splitting among threads are left to torch.
        count: positions or frames in the step,
        most: and how many there may be.
    """
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and hidden <= MOST_HIDDEN
        and count <= most
        and torch.get_num_threads() <= MOST_THREADS
    )


def array_of(weight: Tensor) -> NDArray[np.float32]:
    """The same numbers for a kernel; a copy only of what is a slice of something larger."""
    return np.ascontiguousarray(weight.detach().numpy())
