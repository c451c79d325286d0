from __future__ import annotations

import pytest
import torch

from pipeline.config import TextConfig
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import BLOCK, KVCache, KVPool

CPU = torch.device("cpu")
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.fixture(name="sequences")
def _sequences() -> list[KVCache]:
    """Three sequences of 0, 30 and 100 positions."""
    config = TextConfig.from_dict(
        {"num_hidden_layers": 2, "num_kv_shared_layers": 0, "layer_types": [SLIDING, FULL]}
        | {"sliding_window": 20, "head_dim": 2, "num_key_value_heads": 1}
    )
    pool = KVPool(config, torch.float32, CPU)
    caches = [KVCache(pool, 200) for _ in range(3)]
    for cache, length in zip(caches, (0, 30, 100), strict=True):
        cache.reserve(length)
        cache.advance(length)
    return caches


def plan(caches, counts, keeps):
    for cache, count in zip(caches, counts, strict=True):
        cache.reserve(count)
    return Ahead.of_sequences(caches, counts, keeps, CPU)


def test_positions_follow_those_of_their_sequence(sequences):
    ahead = plan(sequences, [2, 1, 3], [0, 0, 0])

    assert ahead.positions.tolist() == [0, 1, 30, 100, 101, 102]
    assert ahead.wanted is None


def test_sequences_are_set_apart_and_put_together_again(sequences):
    ahead = plan(sequences, [2, 1, 3], [0, 0, 0])
    apart = ahead.positions[ahead.apart]

    assert apart.tolist() == [[0, 1, 1], [30, 30, 30], [100, 101, 102]]
    assert torch.equal(apart.flatten()[ahead.together], ahead.positions)


def test_equal_numbers_need_no_setting_apart(sequences):
    ahead = plan(sequences, [1, 1, 1], [1, 1, 1])

    assert ahead.apart is None
    assert ahead.together is None
    assert ahead.wanted is ahead


def test_no_two_positions_are_written_to_the_same_place(sequences):
    twin = sequences[2].fork()
    ahead = plan([*sequences, twin], [2, 1, 3, 5], [0, 0, 0, 0])

    for lines in ahead.lines.values():
        assert len(set(lines.write.tolist())) == 11
        assert min(lines.write.tolist()) >= BLOCK  # block 0 is nobody's


def test_blocks_that_are_read_begin_where_the_first_query_looks(sequences):
    ahead = plan(sequences, [1, 1, 1], [1, 1, 1])

    assert ahead.lines[FULL].first.tolist() == [0, 0, 0]
    assert ahead.lines[SLIDING].first.tolist() == [0, 0, 80]
    assert (ahead.lines[FULL].table > 0).sum(1).tolist() == [1, 2, 7]
    assert (ahead.lines[SLIDING].table > 0).sum(1).tolist() == [1, 2, 2]


def test_only_wanted_positions_go_on(sequences):
    ahead = plan(sequences, [2, 1, 3], [1, 0, 2])
    wanted = ahead.wanted

    assert wanted.of.tolist() == [1, 4, 5]
    assert wanted.positions.tolist() == [1, 101, 102]
    assert len(wanted.lines[FULL].table) == 2
