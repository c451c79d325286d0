"""Products and norms of a few rows, for kernels that put a whole layer into one function on one thread.

For a few positions a product takes as long as reading its matrix takes. In int8 that is a quarter.

Numba keeps those compiled, and does not see when this file or what they call of :mod:`kernels.ffn` changes:
remove ``__pycache__`` then.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]


class Matrix(NamedTuple):
    """A matrix, [rows, columns].

    Attributes:
        values: contiguous float32 or int8, [rows, columns].
        scales: what the values of each row are multiplied by, float32 [rows].
    """

    values: NDArray[np.float32] | NDArray[np.int8]
    scales: _Array


_ZERO = np.float32(0.0)

SUMS = {"reassoc", "contract", "nsz"}
"""Sums may be taken in any order, which is what makes vector instructions of them; NaN and infinity stay."""


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def dot(a: _Array | NDArray[np.int8], b: _Array) -> np.float32:
    """The product of two vectors, [n] each."""
    total = np.float32(0.0)
    for i in range(len(a)):
        total += np.float32(a[i]) * b[i]
    return total


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def multiply(x: _Array, matrix: Matrix, rows: int) -> _Array:
    """The first ``rows`` of ``x matrix^T``: [n, columns] and [at least rows, at least columns] -> [n, rows].

    A matrix wider than ``x`` counts with as many columns as that has.
    """
    count, columns = x.shape
    values, scales = matrix.values, matrix.scales
    out = np.empty((count, rows), np.float32)
    by_four, by_two = count // 4 * 4, rows // 2 * 2
    # Two rows by four positions are eight sums of six numbers read, where one by one is a sum of two.
    for j in range(0, by_two, 2):
        row, below = values[j, :columns], values[j + 1, :columns]
        by, by_below = scales[j], scales[j + 1]
        for n in range(0, by_four, 4):
            x0, x1, x2, x3 = x[n], x[n + 1], x[n + 2], x[n + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = _ZERO
            for i in range(columns):
                a, b = np.float32(row[i]), np.float32(below[i])
                a0 += a * x0[i]
                a1 += a * x1[i]
                a2 += a * x2[i]
                a3 += a * x3[i]
                b0 += b * x0[i]
                b1 += b * x1[i]
                b2 += b * x2[i]
                b3 += b * x3[i]
            out[n, j], out[n + 1, j], out[n + 2, j], out[n + 3, j] = a0 * by, a1 * by, a2 * by, a3 * by
            out[n, j + 1], out[n + 1, j + 1] = b0 * by_below, b1 * by_below
            out[n + 2, j + 1], out[n + 3, j + 1] = b2 * by_below, b3 * by_below
        for n in range(by_four, count):
            out[n, j], out[n, j + 1] = dot(row, x[n]) * by, dot(below, x[n]) * by_below
    for n in range(count if by_two < rows else 0):
        out[n, by_two] = dot(values[by_two, :columns], x[n]) * scales[by_two]
    return out


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def scale_of(row: _Array, eps: float) -> np.float32:
    """What a vector [n] is multiplied by to have a root mean square of one."""
    total = np.float32(0.0)
    for i in range(len(row)):
        total += row[i] * row[i]
    return np.float32(1.0 / math.sqrt(total / np.float32(len(row)) + eps))


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def norm(x: _Array, weight: _Array, eps: float) -> _Array:
    """Root mean square norm of each row, [n, columns] and [columns] -> [n, columns]."""
    out = np.empty_like(x)
    for n in range(x.shape[0]):
        scale = scale_of(x[n], eps)
        for i in range(x.shape[1]):
            out[n, i] = x[n, i] * scale * weight[i]
    return out
