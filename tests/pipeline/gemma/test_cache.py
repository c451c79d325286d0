from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from pipeline.config import TextConfig
from pipeline.errors import ContextError
from pipeline.gemma import cache as caches
from pipeline.gemma.cache import BLOCK, INITIAL_BLOCKS, KVCache, KVPool

FULL, SLIDING = "full_attention", "sliding_attention"

CONFIG = TextConfig.from_dict(
    {
        "num_hidden_layers": 5,
        "num_kv_shared_layers": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "sliding_window": 20,
        "layer_types": [SLIDING, FULL, SLIDING, FULL, SLIDING],
    }
)


@pytest.fixture(name="pool")
def _pool() -> KVPool:
    return KVPool(CONFIG, torch.float32, torch.device("cpu"))


@pytest.fixture(name="cache")
def _cache(pool: KVPool) -> KVCache:
    return KVCache(pool, 4096)


def fill(cache: KVCache, count: int) -> list[torch.Tensor]:
    """Append ``count`` random positions to all layers; the keys of each."""
    cache.reserve(count)
    written = []
    for layer in range(CONFIG.first_shared_layer):
        keys = torch.randn(count, 2, 4)
        rows = torch.from_numpy(cache.rows(CONFIG.layer_types[layer], count))
        cache.pool.write(layer, rows, keys, -keys)
        written.append(keys)
    cache.advance(count)
    return written


def held(cache: KVCache, layer: int) -> tuple[int, torch.Tensor, torch.Tensor]:
    """What the next position of a layer sees but itself: first position, keys, values, [positions, 2, 4]."""
    first, blocks = cache.blocks(CONFIG.layer_types[layer], 0)
    keys, values = cache.pool.read(layer, torch.from_numpy(blocks)[None])
    count = cache.length - first
    return first, keys[0].transpose(0, 1)[:count], values[0].transpose(0, 1)[:count]


def taken(pool: KVPool) -> dict[str, int]:
    return {kind: blocks.taken for kind, blocks in pool.kinds.items()}


def test_returns_everything_appended_across_growth(cache):
    """Growing loses nothing, not even what other layers have written of the same positions."""
    pieces = [fill(cache, count) for count in (3, INITIAL_BLOCKS * BLOCK, 1, 3 * INITIAL_BLOCKS * BLOCK)]

    for layer in range(CONFIG.first_shared_layer):
        first, keys, values = held(cache, layer)
        expected = torch.cat([piece[layer] for piece in pieces])[first:]
        assert torch.equal(keys, expected)
        assert torch.equal(values, -expected)


def test_sliding_layers_hold_their_window_and_the_last_pass(cache):
    for _ in range(300):
        fill(cache, 1)
        sliding = taken(cache.pool)[SLIDING]
        assert sliding <= -(-(CONFIG.sliding_window + 1) // BLOCK) + 1
    assert taken(cache.pool)[FULL] == -(-300 // BLOCK)
    position = 2 * 2 * 4 * 4
    layers = (1 * taken(cache.pool)[FULL] + 2 * taken(cache.pool)[SLIDING]) * BLOCK
    assert cache.nbytes == layers * position


def test_new_positions_count_only_when_all_layers_have_them(cache):
    fill(cache, 2)
    cache.reserve(3)

    assert cache.length == 2


def test_room_that_was_not_used_is_not_lost(cache):
    """A pass that failed leaves its reservation to the next."""
    fill(cache, 2)
    cache.reserve(100)
    before = taken(cache.pool)
    cache.reserve(90)

    assert taken(cache.pool) == before
    cache.truncate(1)
    assert set(taken(cache.pool).values()) == {1}


@pytest.mark.parametrize("length", [-1, 6])
def test_cannot_be_truncated_to_what_it_does_not_hold(cache, length):
    fill(cache, 5)

    with pytest.raises(ValueError, match=f"cache of 5 positions to {length}"):
        cache.truncate(length)


def test_the_last_pass_can_be_undone_but_not_what_left_the_window_before(cache):
    pieces = [fill(cache, 100), fill(cache, 1), fill(cache, 100)]
    cache.truncate(101)
    first, keys, _ = held(cache, 0)

    assert torch.equal(keys, torch.cat([piece[0] for piece in pieces[:2]])[first:])
    with pytest.raises(ValueError, match="let their past go"):
        cache.truncate(60)


def test_a_fork_copies_nothing_until_one_of_both_writes(cache):
    first = fill(cache, 40)
    before = taken(cache.pool)
    twin = cache.fork()
    assert taken(cache.pool) == before

    own, other = fill(cache, 3), fill(twin, 5)
    assert {kind: count - before[kind] for kind, count in taken(cache.pool).items()} == {FULL: 1, SLIDING: 0}
    for layer in range(CONFIG.first_shared_layer):
        for held_by, added in ((cache, own), (twin, other)):
            start, keys, _ = held(held_by, layer)
            assert torch.equal(keys, torch.cat([first[layer], added[layer]])[start:])


def test_more_forks_than_are_copied_at_once(pool, monkeypatch):
    monkeypatch.setattr(caches, "COPIES_AT_ONCE", 3)
    cache = KVCache(pool, 100)
    first = fill(cache, 40)
    forks = [cache.fork() for _ in range(8)]
    caches.reserve([cache, *forks], [2] * 9)

    for layer in range(CONFIG.first_shared_layer):
        for fork in (cache, *forks):
            start, keys, _ = held(fork, layer)
            assert torch.equal(keys, first[layer][start:])
    assert len({int(fork.blocks(FULL, 2)[1][2]) for fork in (cache, *forks)}) == 9


def test_a_copy_that_found_no_memory_is_forgotten_with_its_sequence(cache, monkeypatch):
    """Into one block two would be copied by one call, and on a GPU either may be the last."""
    first = fill(cache, 40)
    twin = cache.fork()
    with monkeypatch.context() as short:
        short.setattr(caches, "to_device", _no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            twin.reserve(1)
    lost = twin.blocks(FULL, 1)[1][2]
    del twin
    gc.collect()
    moved, to_device = [], caches.to_device
    monkeypatch.setattr(caches, "to_device", lambda ids, device: moved.append(ids) or to_device(ids, device))
    fork = cache.fork()
    fork.reserve(1)

    assert fork.blocks(FULL, 1)[1][2] == lost
    assert [ids.shape for ids in moved] == [(2, 1)] * len(cache.pool.kinds)
    assert torch.equal(held(fork, 1)[1], first[1])


def _no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError


def test_blocks_return_when_the_last_sequence_that_holds_them_is_gone(cache):
    pool = cache.pool
    fill(cache, 40)
    twin = cache.fork()
    before = taken(pool)
    fill(twin, 30)
    twin.truncate(40)
    del twin
    gc.collect()

    assert taken(pool) == before
    cache.truncate(0)
    assert set(taken(pool).values()) == {0}


def test_a_sequence_has_a_limit(pool):
    cache = KVCache(pool, 10)
    fill(cache, 8)

    with pytest.raises(ContextError, match="11 positions, at most 10"):
        cache.reserve(3)
    assert cache.length == 8


def test_the_bound_in_bytes_is_one(pool):
    """A stream at its longest, as a translator works: audio in pieces, hypotheses in forks."""
    limit = caches.most_bytes(CONFIG, torch.float32, trunk=200, piece=7, branches=[50, 30])
    per_block = {kind: blocks.buffer[:, 0].nbytes for kind, blocks in pool.kinds.items()}
    most, random = 0, np.random.default_rng(0)
    trunk = KVCache(pool, 1000)
    while trunk.length + 7 <= 200:
        fill(trunk, int(random.integers(1, 8)))
        branch = trunk.fork()
        for _ in range(50):
            fill(branch, 1)
        leaf = branch.fork()
        for _ in range(30):
            fill(leaf, 1)
        most = max(most, sum(count * per_block[kind] for kind, count in taken(pool).items()))
        del branch, leaf

    assert 0.75 * limit < most <= limit
