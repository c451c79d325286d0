from __future__ import annotations

import pytest
import torch

from pipeline.config import TextConfig
from pipeline.gemma.cache import INITIAL_CAPACITY, KVCache

CONFIG = TextConfig.from_dict(
    {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
)


@pytest.fixture(name="cache")
def _cache() -> KVCache:
    return KVCache(CONFIG, torch.float32, torch.device("cpu"))


def fill(cache: KVCache, count: int) -> list[torch.Tensor]:
    """Append ``count`` random positions to both layers; the keys of each."""
    written = []
    for layer in range(CONFIG.first_shared_layer):
        keys = torch.randn(1, 2, count, 4)
        cache.append(layer, keys, -keys)
        written.append(keys)
    cache.advance(count)
    return written


def test_returns_everything_appended_across_growth(cache):
    """Growing loses nothing, not even what other layers have written of the same positions."""
    counts = (3, INITIAL_CAPACITY, 1, 3 * INITIAL_CAPACITY)
    pieces = [fill(cache, count) for count in counts]
    nothing = torch.empty(1, 2, 0, 4)

    assert cache.length == sum(counts)
    for layer in range(CONFIG.first_shared_layer):
        keys, values = cache.append(layer, nothing, nothing)
        expected = torch.cat([piece[layer] for piece in pieces], dim=2)
        assert torch.equal(keys, expected)
        assert torch.equal(values, -expected)


def test_new_positions_count_only_when_all_layers_have_them(cache):
    fill(cache, 2)
    cache.append(0, torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))

    assert cache.length == 2


@pytest.mark.parametrize("length", [-1, 6])
def test_cannot_be_truncated_to_what_it_does_not_hold(cache, length):
    fill(cache, 5)

    with pytest.raises(ValueError, match=f"cache of 5 positions to {length}"):
        cache.truncate(length)


def test_fork_keeps_its_own_positions(cache):
    first = fill(cache, 4)
    twin = cache.fork()
    cache.truncate(1)
    fill(cache, 3)
    nothing = torch.empty(1, 2, 0, 4)

    assert twin.length == 4
    assert torch.equal(twin.append(1, nothing, nothing)[0], first[1])
