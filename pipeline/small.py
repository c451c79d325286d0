"""Small steps on the CPU, which are done in compiled kernels: which those are, and what kernels are given.

Both halves of the model have such (:mod:`pipeline.encoder.quick`, :mod:`pipeline.gemma.quick`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.rows import Matrix

MOST_HIDDEN = 256
"""Widest model: the bundled one, which is what was measured."""

MOST_INT8 = 127
"""Largest number that stands for a weight in int8, of either sign."""

LEAST_COLUMNS = 64
"""Of a matrix in int8: what is narrower takes no time."""

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


def rounded(weight: Tensor) -> Tensor:
    """The nearest weights that int8 can hold: each row in steps of a 127th of its largest number.

    Args:
        weight: float32 [rows, columns].

    Returns:
        The same shape; ``weight`` itself if it is too narrow to be worth it.
    """
    if weight.shape[1] < LEAST_COLUMNS:
        return weight
    steps = weight.abs().amax(1, keepdim=True) / MOST_INT8
    return torch.where(steps > 0, (weight / steps).round() * steps, weight)


def matrix_of(weight: Tensor, *, int8: bool) -> Matrix:
    """A matrix for a kernel.

    Args:
        weight: float32 [rows, columns].
        int8: whether it has been :func:`rounded`.
    """
    values = array_of(weight)
    if not int8 or values.shape[1] < LEAST_COLUMNS:
        return Matrix(values, np.ones(len(values), np.float32))
    scales = np.abs(values).max(1, initial=0.0) / np.float32(MOST_INT8)
    steps = values / np.where(scales, scales, np.float32(1.0))[:, None]
    return Matrix(steps.round().astype(np.int8), scales)
