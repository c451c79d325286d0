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
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32] | NDArray[np.uint16]
"""Float32, or the bits of bfloat16."""

_LINE = 64
"""Bytes that memory hands over at once."""

_BLOCK = 256
"""Values of a plain row between which the next row is fetched."""

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


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing: Any, array: Any, row: Any, column: Any) -> Any:
    """Have the cache line of ``array[row, column]`` fetched, without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        made = context.make_array(array)(context, builder, values[0])
        item = cgutils.get_item_pointer(context, builder, array, made, list(values[1:]), wraparound=False)
        pointer = builder.bitcast(item, cgutils.voidptr_t)
        fetch = ir.FunctionType(ir.VoidType(), [pointer.type, *[cgutils.int32_t] * 3])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], fetch)
        # To be read, to be kept in all caches, data.
        builder.call(function, [pointer, *(cgutils.int32_t(flag) for flag in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _fetch(table: NDArray[Any], row: int, begin: int, end: int) -> None:
    for column in range(begin, end, _LINE // table.itemsize):
        _prefetch(table, row, column)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _row(ids: NDArray[np.int64], i: int, rows: int) -> int:
    """The row of an id; behind the last id that of the last."""
    token = ids[min(i, len(ids) - 1)]
    return token if 0 <= token < rows else 0


# Rows lie far from each other, so memory is slow to hand over each of them: while one is computed, the next
# is fetched, block by block, for only so many lines can be on their way.
#
# The size of an item, by which float32 and bfloat16 are told apart, is a constant to the compiler; and loops
# over slices, which cannot overlap what else is indexed, become vector instructions.


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _gather(table: Floats, ids: NDArray[np.int64], factor: np.float32, out: Floats) -> None:
    for i in range(len(ids)):
        row, coming = _row(ids, i, len(table)), _row(ids, i + 1, len(table))
        for begin in range(0, table.shape[1], _BLOCK):
            end = min(begin + _BLOCK, table.shape[1])
            _fetch(table, coming, begin, end)
            block, into = table[row, begin:end], out[i, begin:end]
            for j in range(len(block)):
                value = (block[j] if block.itemsize == 4 else _widened(block[j])) * factor
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
        row, coming = _row(ids, i, len(values)), _row(ids, i + 1, len(values))
        _fetch(scales, coming, 0, scales.shape[1])
        for layer in range(scales.shape[1]):
            _fetch(values, coming, layer * width, (layer + 1) * width)
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
        row, coming = _row(ids, i, len(values)), _row(ids, i + 1, len(values))
        _fetch(scales, coming, 0, scales.shape[1])
        for layer in range(scales.shape[1]):
            _fetch(values, coming, layer * half, (layer + 1) * half)
            scale = scales[row, layer] * factor
            block = values[row, layer * half : (layer + 1) * half]
            low = out[i, 2 * layer * half : (2 * layer + 1) * half]
            high = out[i, (2 * layer + 1) * half : (2 * layer + 2) * half]
            for j in range(half):
                first = np.float32(np.int32(block[j] & 15) - 8) * scale
                second = np.float32(np.int32(block[j] >> 4) - 8) * scale
                low[j] = first if low.itemsize == 4 else _rounded(first)
                high[j] = second if high.itemsize == 4 else _rounded(second)
