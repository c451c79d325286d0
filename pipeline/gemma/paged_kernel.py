"""The kernel of :mod:`pipeline.gemma.paged`, in Triton, which comes with torch for GPUs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.gemma.cache import BLOCK
from pipeline.gemma.paged import Pages, queries_of


@triton.jit(  # type: ignore[untyped-decorator]
    # They are cut from one array, where they stand now on this boundary and now on that one.
    do_not_specialize=["blocks"],
    do_not_specialize_on_alignment=["line", "start", "queries", "positions", "table", "first"],
)
def _attend(  # type: ignore[no-untyped-def] # noqa: PLR0917 (there are no others)
    query,
    keys,
    values,
    out,
    line,
    start,
    queries,
    positions,
    table,
    first,
    query_head,
    query_row,
    kv_block,
    kv_place,
    kv_head,
    blocks,
    out_row,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile and one head of keys: ROWS of queries and their heads, in steps of KEYS keys."""
    tile, head = tl.program_id(0), tl.program_id(1)
    many = tl.load(queries + tile)
    if many == 0:
        return
    own, begin = tl.load(line + tile), tl.load(start + tile)
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    used, inside = row < many * GROUP, column < WIDTH
    at, own_head = begin + row // GROUP, head * GROUP + row % GROUP
    asked = tl.load(
        query + own_head[:, None] * query_head + at[:, None] * query_row + column[None, :],
        mask=used[:, None] & inside[None, :],
        other=0.0,
    )
    position = tl.load(positions + at, mask=used, other=0)
    began = tl.load(first + own)
    # Keys are counted from the first that the table has.
    end = tl.load(positions + begin + many - 1) - began + 1
    low = end * 0
    if WINDOW > 0:
        low = tl.maximum(tl.load(positions + begin) - WINDOW + 1 - began, 0)
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    summed = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(low // KEYS * KEYS, end, KEYS):
        key = step + tl.arange(0, KEYS)
        there = key < end
        block = tl.load(table + own * blocks + key // BLOCK, mask=there, other=0)
        where = block * kv_block + (key % BLOCK) * kv_place + head * kv_head
        read = tl.load(
            keys + where[None, :] + column[:, None], mask=there[None, :] & inside[:, None], other=0.0
        )
        score = tl.dot(asked, read, input_precision=PRECISION)
        distance = position[:, None] - (began + key)[None, :]
        seen = there[None, :] & (distance >= 0)
        if WINDOW > 0:
            seen = seen & (distance < WINDOW)
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(highest, tl.max(score, 1))
        # A row that has seen nothing yet has no highest score to subtract.
        known = tl.where(higher == float("-inf"), 0.0, higher)
        weight, less = tl.exp(score - known[:, None]), tl.exp(highest - known)
        shown = tl.load(
            values + where[:, None] + column[None, :], mask=there[:, None] & inside[None, :], other=0.0
        )
        total = total * less + tl.sum(weight, 1)
        summed = summed * less[:, None] + tl.dot(weight.to(shown.dtype), shown, input_precision=PRECISION)
        highest = higher
    tl.store(
        out + at[:, None] * out_row + own_head[:, None] * WIDTH + column[None, :],
        (summed / total[:, None]).to(out.dtype.element_ty),
        mask=used[:, None] & inside[None, :],
    )


def attend(query: Tensor, keys: Tensor, values: Tensor, pages: Pages) -> Tensor:
    """See :func:`pipeline.gemma.paged.attend`."""
    (_, heads, count, width), kv_heads = query.shape, keys.shape[2]
    out = query.new_empty(1, count, heads * width)
    group = heads // kv_heads
    rows = triton.next_power_of_2(queries_of(heads, kv_heads) * group)
    _attend[(len(pages.tiles.line), kv_heads)](
        query,
        keys,
        values,
        out,
        *pages.tiles,
        pages.positions,
        pages.table,
        pages.first,
        query.stride(1),
        query.stride(2),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        pages.table.shape[1],
        heads * width,
        WINDOW=pages.window or 0,
        GROUP=group,
        WIDTH=width,
        ROWS=max(16, rows),
        COLUMNS=max(16, triton.next_power_of_2(width)),
        KEYS=32,
        BLOCK=BLOCK,
        # Numbers of 32 bits are asked for where results are compared.
        PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
        # With more of them fewer programs find room on a multiprocessor.
        num_stages=2,
    )
    return out
