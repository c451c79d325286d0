"""The kernel on a GPU gives what torch's operators give, at the sizes of the published models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.gemma.cache import BLOCK
from pipeline.gemma.paged import Pages, Tiles, attend_plainly, fill_tiles, most_tiles, queries_of

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from pipeline.gemma.paged_kernel import attend

HEADS, KV_HEADS, WIDTH = 8, 2, 256


@pytest.mark.parametrize("window", [None, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_agrees_with_torch(rng, window, dtype):
    device = torch.device("cuda")
    counts = [rng.choice([1, 1, 1, rng.randint(2, 200)]) for _ in range(rng.randint(1, 60))]
    pasts = [rng.randint(0, 900) for _ in counts]
    kv = torch.randn(2000, BLOCK, 2, KV_HEADS, WIDTH, device=device).to(dtype)
    firsts = [max(0, past - window + 1) // BLOCK * BLOCK if window else 0 for past in pasts]
    table = torch.randint(2, 2000, (len(counts), 80), device=device)
    positions = torch.cat([torch.arange(past, past + n) for past, n in zip(pasts, counts, strict=True)])
    queries = queries_of(HEADS, KV_HEADS)
    filled = [np.zeros(most_tiles(len(positions), len(counts), queries), np.int64) for _ in range(3)]
    fill_tiles(filled, counts, queries)
    tiles = Tiles(*(torch.from_numpy(part).to(device) for part in filled))
    pages = Pages(tiles, positions.to(device), table, torch.tensor(firsts, device=device), window)
    # Scores of a trained model's size: queries and keys are normed there.
    query = torch.randn(1, len(positions), HEADS, WIDTH, device=device).transpose(1, 2).to(dtype) / 16
    got = attend(query, kv[:, :, 0], kv[:, :, 1], pages)

    expected = attend_plainly(query.double(), kv[:, :, 0].double(), kv[:, :, 1].double(), pages)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
