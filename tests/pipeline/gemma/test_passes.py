"""Shapes of passes; what they compute is in test_steps.py."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import FULL, SLIDING, TextConfig
from pipeline.gemma.cache import BLOCK, KVCache, KVPool
from pipeline.gemma.passes import (
    ALL,
    LAST,
    LONG,
    MOST_POSITIONS,
    NONE,
    SEQUENCES,
    SMALL,
    Shape,
    blocks_seen,
    packed,
    to_prepare,
)

COUNTS = st.lists(
    st.one_of(st.just(1), st.integers(1, 70), st.integers(1, MOST_POSITIONS)), min_size=1, max_size=600
)


@given(COUNTS, st.integers(1, 600), st.randoms(use_true_random=False))
def test_a_shape_has_room_for_what_it_is_made_for(counts, blocks, rng):
    keeps = [rng.choice([0, 1, count]) for count in counts]
    for part in packed(counts):
        own, kept = [counts[at] for at in part], [keeps[at] for at in part]
        shape = Shape.of(own, kept, blocks)

        assert shape.positions >= sum(own)
        assert shape.sequences >= len(own)
        assert shape.tiled == (len(own) > 1)
        assert shape.blocks >= blocks
        assert shape.wanted == (NONE if not any(kept) else LAST if max(kept) == 1 else ALL)
        assert shape.covers(shape)


@given(COUNTS)
def test_a_pass_takes_all_that_fits_into_it(counts):
    """But for the longest, which are alone."""
    passes = packed(counts)

    assert sorted(at for part in passes for at in part) == list(range(len(counts)))
    for part in passes:
        own = [counts[at] for at in part]
        assert sum(own) <= MOST_POSITIONS
        assert len(own) == 1 or (len(own) <= SEQUENCES[-1] and max(own) <= LONG)
    shared = [part for part in passes if counts[part[0]] <= LONG]
    for part, behind in pairwise(shared):
        room = MOST_POSITIONS - sum(counts[at] for at in part)
        assert len(part) == SEQUENCES[-1] or counts[behind[0]] > room


def test_drafts_take_steps_along():
    """As far as they fit: a pass costs less than two."""
    assert packed([1, 30, 1, 40]) == [[3, 1, 0, 2]]
    assert packed([]) == []


@given(st.integers(1, 520), st.integers(1, 700), st.randoms(use_true_random=False))
def test_what_is_prepared_covers_live_speech(sequences, positions, rng):
    """Passes of up to so many sequences with up to 256 new positions each, in a bounded number of shapes."""
    prepared = list(to_prepare(sequences, positions))
    assert len(set(prepared)) == len(prepared) <= 40
    for _ in range(5):
        most = rng.choice([3, 16, 60, 256])
        count = rng.randint(1, sequences)
        counts = [rng.randint(1, min(most, positions)) for _ in range(count)]
        longest = rng.randint(1, -(-positions // BLOCK))
        for part in packed(counts):
            own = [counts[at] for at in part]
            shape = Shape.of(own, [rng.choice([0, 1, some]) for some in own], longest)
            assert any(known.covers(shape) for known in prepared), shape


def test_a_shape_covers_smaller_ones_but_not_at_any_cost():
    large = Shape(2048, 64, ALL, 64)

    assert large.covers(Shape(512, 8, LAST, 32))
    assert not large.covers(Shape(256, 8, LAST, 32))  # too few positions
    assert not large.covers(Shape(1024, 512, ALL, 32))
    assert not large.covers(Shape(1024, 64, ALL, 128))
    assert not large._replace(wanted=LAST).covers(Shape(1024, 64, ALL, 64))
    assert Shape(SMALL, 64, ALL, 32).covers(Shape(16, 8, NONE, 32))
    assert not large.covers(Shape(1024, 1, ALL, 64))  # whose queries go into no tiles


def test_tables_of_sliding_layers_hold_what_their_window_can_reach():
    """Exactly: some sequence needs each of its blocks, and none needs more."""
    rng = random.Random()
    for _ in range(20):
        window, count = rng.randint(2, 70), rng.randint(1, 100)
        config = TextConfig.from_dict(
            {
                "num_hidden_layers": 2,
                "num_kv_shared_layers": 0,
                "layer_types": [SLIDING, FULL],
                "head_dim": 2,
                "sliding_window": window,
            }
        )
        pool = KVPool(config, torch.float32, torch.device("cpu"))
        cache, most = KVCache(pool, 400), 0
        for _ in range(200):
            twin = cache.fork()
            twin.reserve(count)
            most = max(most, len(twin.blocks(SLIDING, count)[1]))
            cache.reserve(1)
            cache.advance(1)

        assert most == blocks_seen(config, count)
        assert Shape(count, 1, ALL, 10_000).width(SLIDING, config) == most
        assert Shape(count, 1, ALL, 1).width(SLIDING, config) == 1
