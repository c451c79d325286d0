"""The gated feed-forward whose gate lets few units through, for the few positions of a decode step.

All of the gate is computed. A unit whose gate stays below ``mean + std * z`` over the width in use adds
nothing, so its rows of the other two matrices are not read: at Gemma 3n's sparsity of 0.95 that is nearly two
thirds of the layer's bytes. One thread; every row that is read serves all positions while it is in the cache.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.rows import SUMS, dot

_Array = NDArray[np.float32]

_SQRT_2_OVER_PI = np.float32(math.sqrt(2 / math.pi))
_CUBIC = np.float32(0.044715)
_HALF, _ONE = np.float32(0.5), np.float32(1.0)


def sparse_feed_forward(x: _Array, gate: _Array, up: _Array, down: _Array, *, z: float, out: _Array) -> None:
    """Fill ``out`` with ``(gelu(relu(g - cut)) * (x up^T)) down`` where ``g = x gate^T``.

    ``cut`` is, for each position, the mean of g plus ``z`` of its population standard deviations; gelu is the
    tanh approximation.

    Args:
        x: positions, float32 ``[n, hidden]``, contiguous.
        gate: float32 ``[width, hidden]``, contiguous, width at least 1.
        up: the same.
        down: the same: a row for each unit.
        z: how many standard deviations above the mean the threshold is.
        out: float32 ``[n, hidden]``, contiguous, overwritten.

    Raises:
        ValueError: an array of another type, layout or shape.
    """
    width = max(1, len(gate)) if gate.ndim else 1
    hidden = x.shape[-1] if x.ndim else 1
    for name, array, shape in (
        ("x", x, (len(x) if x.ndim else 0, hidden)),
        ("gate", gate, (width, hidden)),
        ("up", up, (width, hidden)),
        ("down", down, (width, hidden)),
        ("out", out, x.shape),
    ):
        _check(name, array, shape)
    _gather(x, _passed(x, gate, np.float32(z)), up, down, out)


def _check(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != np.float32 or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be contiguous float32 {list(shape)}, got {array.dtype} {list(array.shape)}"
        )


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def gelu(a: np.float32) -> np.float32:
    """The tanh approximation of a number's gelu."""
    return _HALF * a * (_ONE + np.float32(math.tanh(_SQRT_2_OVER_PI * (a + _CUBIC * a * a * a))))


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def threshold(gates: _Array, z: float) -> np.float32:
    """The mean of a position's gates, [width], plus ``z`` of their population standard deviations."""
    width = len(gates)
    mean = 0.0
    for j in range(width):
        mean += gates[j]
    mean /= width
    variance = 0.0
    for j in range(width):
        variance += (gates[j] - mean) ** 2
    return np.float32(mean + math.sqrt(variance / width) * z)


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _passed(x: _Array, gate: _Array, z: np.float32) -> _Array:
    """How far each gate is above its position's threshold, [n, width]."""
    count, width = x.shape[0], gate.shape[0]
    gates = np.empty((count, width), np.float32)
    for j in range(width):
        for n in range(count):
            gates[n, j] = dot(gate[j], x[n])
    for n in range(count):
        row = gates[n]
        cut = threshold(row, z)
        for j in range(width):
            row[j] -= cut
    return gates


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _gather(x: _Array, passed: _Array, up: _Array, down: _Array, out: _Array) -> None:
    """Add up what the units that pass contribute."""
    for n in range(x.shape[0]):
        out[n] = np.float32(0.0)
    for j in range(passed.shape[1]):
        for n in range(x.shape[0]):
            a = passed[n, j]
            if a <= np.float32(0.0):  # NaN is not, and goes where it would in a dense product
                continue
            factor = gelu(a) * dot(up[j], x[n])
            row, into = down[j], out[n]
            for i in range(len(row)):
                into[i] += row[i] * factor
