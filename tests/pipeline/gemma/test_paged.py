"""Attention over blocks: what torch makes of whole sequences that were cut into blocks and tiles."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.gemma.cache import BLOCK
from pipeline.gemma.paged import Pages, Tiles, attend, fill_tiles, most_tiles, queries_of


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 16))
def test_each_query_is_in_one_tile_of_its_sequence(counts, queries):
    filled = [np.zeros(most_tiles(sum(counts), len(counts), queries), np.int64) for _ in range(3)]
    fill_tiles(filled, counts, queries)

    got = [
        (line, query)
        for line, start, count in zip(*filled, strict=True)
        for query in range(start, start + count)
    ]
    ends = np.cumsum(counts)
    assert got == [(at, query) for at, end in enumerate(ends) for query in range(end - counts[at], end)]
    assert filled[2].max() <= queries


def cut_up(rng: random.Random, device: torch.device, dtype: torch.dtype):
    """Queries of some sequences with their pages, and what each of them attends to."""
    kv_heads, group, width = rng.choice([1, 2]), rng.choice([1, 2, 3, 4, 8]), rng.choice([4, 16, 40, 64])
    heads, window = kv_heads * group, rng.choice([None, rng.randint(1, 60)])
    kv = torch.randn(200, BLOCK, 2, kv_heads, width, dtype=dtype)
    free = rng.sample(range(2, 200), 198)
    queries, positions, expected, rows, firsts, counts = [], [], [], [], [], []
    for _ in range(rng.randint(1, 9)):
        count, past = rng.randint(1, 30), rng.randint(0, 120)
        # Blocks that the window has left are not there any more.
        gone = max(0, past - window + 1) // BLOCK if window else 0
        own = [free.pop() for _ in range(gone, -(-(past + count) // BLOCK))]
        keys, values = kv[own].flatten(0, 1).movedim(1, 0).transpose(1, 2)
        seen = torch.arange(len(own) * BLOCK) + gone * BLOCK
        asking = torch.arange(past, past + count)
        mask = seen <= asking[:, None]
        if window:
            mask &= seen > asking[:, None] - window
        query = torch.randn(heads, count, width, dtype=dtype)
        attended = F.scaled_dot_product_attention(
            query[None], keys[None], values[None], attn_mask=mask, scale=1.0, enable_gqa=True
        )
        expected.append(attended[0].transpose(0, 1).flatten(1))
        queries.append(query)
        positions.append(asking)
        rows.append(own)
        firsts.append(gone * BLOCK)
        counts.append(count)
    table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for line, own in zip(table, rows, strict=True):
        line[: len(own)] = torch.tensor(own)
    most = queries_of(heads, kv_heads)
    filled = [np.zeros(most_tiles(sum(counts), len(counts), most), np.int64) for _ in range(3)]
    fill_tiles(filled, counts, most)
    tiles = Tiles(*(torch.from_numpy(part).to(device) for part in filled))
    pages = Pages(
        tiles, torch.cat(positions).to(device), table.to(device), torch.tensor(firsts).to(device), window
    )
    # As the layers give them, heads behind positions.
    query = torch.cat(queries, 1).transpose(0, 1).contiguous().transpose(0, 1)[None]
    kv = kv.to(device)
    return query.to(device), kv[:, :, 0], kv[:, :, 1], pages, torch.cat(expected)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_attend_to_what_they_see_of_their_own_sequence(rng, device, dtype):
    for _ in range(5):
        query, keys, values, pages, expected = cut_up(rng, torch.device(device), dtype)
        got = attend(query, keys, values, pages)[0].cpu()

        tolerance = 1e-4 if dtype == torch.float32 else 5e-2
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_one_query_of_each_sequence_is_a_tile():
    tiles = Tiles.of_one_each(3, torch.device("cpu"))

    assert [part.tolist() for part in tiles] == [[0, 1, 2], [0, 1, 2], [1, 1, 1]]
