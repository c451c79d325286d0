"""Rows of a table of per-layer embeddings, gathered out of the file into which it is mapped.

A token's row holds one block of values for every layer, all of one width. Tables come in three forms:

=======  ================================  ==========================================
form     values                            what one stands for
=======  ================================  ==========================================
plain    float32 or bfloat16 [rows, row]   itself
8 bits   int8 [rows, row]                  itself times the scale of its block
4 bits   uint8 [rows, row / 2]             (nibble - 8) times the scale of its block
=======  ================================  ==========================================

Scales are float32 [rows, layers]. With 4 bits, byte j of a block of w values holds value j in its low nibble
and value j + w / 2 in its high one: both halves are then read and written in order.

NumPy has no bfloat16; arrays of it are passed as uint16, bit for bit. All values are finite. The kernels run
on one thread: a batch takes microseconds, in which several would mostly wait for each other.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32] | NDArray[np.uint16]
"""Float32, or the bits of bfloat16."""

_FLOATS = (np.dtype(np.float32), np.dtype(np.uint16))


def gather(table: Floats, ids: NDArray[np.int64], factor: float, out: Floats) -> None:
    """Fill ``out`` with rows of a plain table.

    Args:
        table: float32 or uint16 ``[rows, row]``, contiguous, of at least one row.
        ids: int64 ``[n]``, contiguous; those that the table has no row for have row 0.
        factor: what all values are multiplied with.
        out: float32 or uint16 ``[n, row]``, contiguous, overwritten.

    Raises:
        ValueError: an array of another type, layout or shape.
    """
    _check("table", table, _FLOATS, "rows", "row")
    _check("ids", ids, (np.dtype(np.int64),), ids.size)
    _check("out", out, _FLOATS, len(ids), table.shape[1])
    _gather(table, ids, np.float32(factor), out)


def gather_int8(
    values: NDArray[np.int8],
    scales: NDArray[np.float32],
    ids: NDArray[np.int64],
    factor: float,
    out: Floats,
) -> None:
    """Fill ``out`` with rows of a table of 8 bits per value.

    Args:
        values: int8 ``[rows, layers * width]``, contiguous, of at least one row.
        scales: float32 ``[rows, layers]``, contiguous.
        ids: int64 ``[n]``, contiguous; those that the table has no row for have row 0.
        factor: what all values are multiplied with.
        out: float32 or uint16 ``[n, layers * width]``, contiguous, overwritten.

    Raises:
        ValueError: an array of another type, layout or shape.
    """
    _check("values", values, (np.dtype(np.int8),), "rows", "row")
    _check_blocks(values, scales)
    _check("ids", ids, (np.dtype(np.int64),), ids.size)
    _check("out", out, _FLOATS, len(ids), values.shape[1])
    _gather_int8(values, scales, ids, np.float32(factor), out)


def gather_int4(
    values: NDArray[np.uint8],
    scales: NDArray[np.float32],
    ids: NDArray[np.int64],
    factor: float,
    out: Floats,
) -> None:
    """Fill ``out`` with rows of a table of 4 bits per value.

    Args:
        values: uint8 ``[rows, layers * width / 2]``, contiguous, of at least one row.
        scales: float32 ``[rows, layers]``, contiguous.
        ids: int64 ``[n]``, contiguous; those that the table has no row for have row 0.
        factor: what all values are multiplied with.
        out: float32 or uint16 ``[n, layers * width]``, contiguous, overwritten.

    Raises:
        ValueError: an array of another type, layout or shape.
    """
    _check("values", values, (np.dtype(np.uint8),), "rows", "row / 2")
    _check_blocks(values, scales)
    _check("ids", ids, (np.dtype(np.int64),), ids.size)
    _check("out", out, _FLOATS, len(ids), 2 * values.shape[1])
    _gather_int4(values, scales, ids, np.float32(factor), out)


def _check(name: str, array: NDArray[Any], dtypes: tuple[np.dtype[Any], ...], *shape: int | str) -> None:
    """Refuse an array of another type or layout; sizes that have a name may be any from 1 up."""
    fits = array.ndim == len(shape) and all(
        have > 0 if isinstance(want, str) else have == want
        for have, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype not in dtypes or not fits or not array.flags.c_contiguous:
        wanted = " or ".join(str(dtype) for dtype in dtypes)
        raise ValueError(
            f"{name} must be contiguous {wanted} [{', '.join(map(str, shape))}], "
            f"got {array.dtype} {list(array.shape)}"
        )


def _check_blocks(values: NDArray[Any], scales: NDArray[np.float32]) -> None:
    _check("scales", scales, (np.dtype(np.float32),), len(values), "layers")
    if values.shape[1] % scales.shape[1]:
        raise ValueError(f"a row of {values.shape[1]} bytes has no {scales.shape[1]} blocks of one width")


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _widened(bits: np.uint16) -> np.float32:
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _rounded(value: np.float32) -> np.uint16:
    # To the nearest bfloat16, and of two equally near ones to the even one.
    bits = np.uint32(np.float32(value).view(np.uint32))
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


# The size of an item, by which float32 and bfloat16 are told apart, is a constant to the compiler; and loops
# over slices, which cannot overlap what else is indexed, become vector instructions.


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _gather(table: Floats, ids: NDArray[np.int64], factor: np.float32, out: Floats) -> None:
    for i in range(len(ids)):
        row = table[ids[i] if 0 <= ids[i] < len(table) else 0]
        into = out[i]
        for j in range(len(row)):
            value = (row[j] if row.itemsize == 4 else _widened(row[j])) * factor
            into[j] = value if into.itemsize == 4 else _rounded(value)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _gather_int8(
    values: NDArray[np.int8],
    scales: NDArray[np.float32],
    ids: NDArray[np.int64],
    factor: np.float32,
    out: Floats,
) -> None:
    width = values.shape[1] // scales.shape[1]
    for i in range(len(ids)):
        row = ids[i] if 0 <= ids[i] < len(values) else 0
        for layer in range(scales.shape[1]):
            scale = scales[row, layer] * factor
            block = values[row, layer * width : (layer + 1) * width]
            into = out[i, layer * width : (layer + 1) * width]
            for j in range(width):
                value = np.float32(block[j]) * scale
                into[j] = value if into.itemsize == 4 else _rounded(value)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _gather_int4(
    values: NDArray[np.uint8],
    scales: NDArray[np.float32],
    ids: NDArray[np.int64],
    factor: np.float32,
    out: Floats,
) -> None:
    half = values.shape[1] // scales.shape[1]
    for i in range(len(ids)):
        row = ids[i] if 0 <= ids[i] < len(values) else 0
        for layer in range(scales.shape[1]):
            scale = scales[row, layer] * factor
            block = values[row, layer * half : (layer + 1) * half]
            low = out[i, 2 * layer * half : (2 * layer + 1) * half]
            high = out[i, (2 * layer + 1) * half : (2 * layer + 2) * half]
            for j in range(half):
                first = np.float32(np.int32(block[j] & 15) - 8) * scale
                second = np.float32(np.int32(block[j] >> 4) - 8) * scale
                low[j] = first if low.itemsize == 4 else _rounded(first)
                high[j] = second if high.itemsize == 4 else _rounded(second)
