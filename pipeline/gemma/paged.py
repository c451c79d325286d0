"""Attention that reads keys and values where they lie in the pool's blocks, a few queries at a time.

To set the queries of many sequences apart in a rectangle, and to copy what each of them sees into one beside
it, takes longer than to attend once there are some dozens of sequences. So here the queries of a sequence go
into tiles of a few, and each tile goes along the blocks of its own sequence, as far as it sees (Kwon et al.
2023, PagedAttention, arXiv:2309.06180; the sums as in Milakov and Gimelshein 2018, arXiv:1805.02867).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

ROWS = 16
"""Queries of a tile times query heads that share a head of keys: the fewest that tensor cores multiply."""


class Tiles(NamedTuple):
    """Which queries of a pass go along which blocks.

    Attributes:
        line: of the tables, int64 [tiles].
        start: the first query of each tile, int64 [tiles]; the others come behind it.
        many: queries in each, at most :func:`queries_of`, int64 [tiles]; 0 for none.
    """

    line: Tensor
    start: Tensor
    many: Tensor

    @classmethod
    def of_one_each(cls, sequences: int, device: torch.device) -> Tiles:
        """Those of a pass with one query of each sequence."""
        each = torch.arange(sequences, device=device)
        return cls(each, each, torch.ones_like(each))


class Pages(NamedTuple):
    """What the queries of a pass read in layers of one kind, sliding or full.

    Attributes:
        tiles: the queries.
        positions: of each query in its sequence, int64 [N].
        table: blocks that each sequence reads, int64 [sequences, blocks].
        first: position of the first key in them, int64 [sequences].
        window: how many keys a query sees, its own included; None for all.
    """

    tiles: Tiles
    positions: Tensor
    table: Tensor
    first: Tensor
    window: int | None


def queries_of(heads: int, kv_heads: int) -> int:
    """Most queries in a tile."""
    return max(1, ROWS // (heads // kv_heads))


def most_tiles(positions: int, sequences: int, queries: int) -> int:
    """Tiles that so many positions of so many sequences may need."""
    return sequences + positions // queries


def fill_tiles(filled: Sequence[NDArray[np.int64]], counts: Sequence[int], queries: int) -> None:
    """Put in place what :class:`Tiles` holds.

    Args:
        filled: its three attributes, which are zero.
        counts: queries of each sequence, one sequence's behind the other's.
        queries: most of them in a tile.
    """
    line, start, many = filled
    each = np.asarray(counts)
    tiles = -(-each // queries)
    of = np.repeat(np.arange(len(each)), tiles)
    before = (np.arange(len(of)) - (tiles.cumsum() - tiles)[of]) * queries
    line[: len(of)] = of
    start[: len(of)] = (each.cumsum() - each)[of] + before
    many[: len(of)] = np.minimum(each[of] - before, queries)


def attend(query: Tensor, keys: Tensor, values: Tensor, pages: Pages) -> Tensor:
    """Have each query attend to the keys of its sequence that it sees; nothing is scaled.

    Args:
        query: [1, heads, N, head_dim].
        keys: of all blocks, [blocks, BLOCK, kv_heads, head_dim].
        values: the same.
        pages: of the queries.

    Returns:
        [1, N, heads * head_dim]; of queries that are in no tile anything.
    """
    if query.is_cuda:
        from pipeline.gemma.paged_kernel import attend as attend_there  # noqa: PLC0415 (needs Triton)

        return attend_there(query, keys, values, pages)
    return attend_plainly(query, keys, values, pages)


def attend_plainly(query: Tensor, keys: Tensor, values: Tensor, pages: Pages) -> Tensor:
    """The same in torch's operators, which copy what each tile sees."""
    line, start, many = pages.tiles
    heads, width = query.shape[1], query.shape[3]
    queries = queries_of(heads, keys.shape[2])
    within = torch.arange(queries, device=query.device)
    at = start[:, None] + torch.minimum(within, (many - 1).clamp(min=0)[:, None])
    table = pages.table[line]
    seen, shown = (part[table].flatten(1, 2).transpose(1, 2) for part in (keys, values))
    key = pages.first[line][:, None] + torch.arange(seen.shape[2], device=query.device)
    distance = pages.positions[at][:, :, None] - key[:, None]
    visible = distance >= 0
    if pages.window is not None:
        visible &= distance < pages.window
    attended = F.scaled_dot_product_attention(
        query[0][:, at].transpose(0, 1), seen, shown, attn_mask=visible[:, None], scale=1.0, enable_gqa=True
    )
    out = query.new_zeros(query.shape[2], heads * width)
    used = within < many[:, None]
    out[at[used]] = attended.transpose(1, 2).flatten(2)[used]
    return out[None]
