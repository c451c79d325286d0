"""What the loop is fed: speech as it comes, and batches drawn by processes that may die."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.training.batches import Batcher
from pipeline.training.feed import Drawing, SpeechPool
from pipeline.training.synthesis import Chunk, chunk_path
from tests.pipeline.training.conftest import CPU, batcher_of

ROOM = 10_000_000


class Listener:
    """Stands in for the processes that draw: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Chunk, int]] = []

    def add(self, chunk: Chunk, offset: int) -> None:
        self.told.append((chunk, offset))


@contextmanager
def pool_of(
    folder: Path,
    capacity: int = ROOM,
    making: Callable[[], bool] = lambda: False,
    most: int = 100,
) -> Iterator[tuple[SpeechPool, Listener]]:
    listener: Any = Listener()
    pool = SpeechPool(folder, listener, capacity, CPU, making, most=most)
    try:
        yield pool, listener
    finally:
        pool.close()


def test_the_pool_holds_the_chunks_that_are_there_in_their_order(folder, chunks):
    with pool_of(folder) as (pool, listener):
        pool.read(len(chunks))

    assert pool.chunks == len(chunks)
    offsets = [offset for _, offset in listener.told]
    assert offsets == [0, *np.cumsum([len(chunk.pcm) for chunk in chunks])[:-1]]
    for chunk, offset in zip(chunks, offsets, strict=True):
        np.testing.assert_array_equal(pool.buffer[offset : offset + len(chunk.pcm)].numpy(), chunk.pcm)
    assert not pool.buffer[pool.filled :].any()


def test_the_pool_grows_when_speech_comes(folder, chunks):
    """In whatever order: some engines are faster than others."""
    late = chunk_path(folder, 1)
    late.rename(folder / "later")
    with pool_of(folder) as (pool, listener):
        pool.read(3)
        pool.read()
        assert pool.chunks == 3
        filled = pool.filled
        (folder / "later").rename(late)
        pool.read(4)

    assert filled < pool.filled == sum(len(chunk.pcm) for chunk in chunks)
    read = [chunk.sentences[0] for chunk, _ in listener.told]
    assert read == [chunks[number].sentences[0] for number in (0, 2, 3, 1)]


def test_the_pool_waits_for_as_many_as_are_needed(tmp_path, chunks):
    """The chunk comes while it waits."""

    def making() -> bool:
        chunks[0].save(chunk_path(tmp_path, 0))
        return True

    with pool_of(tmp_path, making=making) as (pool, _):
        pool.read(1)

    assert pool.chunks == 1


def test_a_full_pool_takes_no_more(folder, chunks):
    room = len(chunks[0].pcm) + len(chunks[1].pcm) + 1
    with pool_of(folder, room) as (pool, _):
        pool.read(4)
        pool.read(4)

    assert pool.chunks == 2
    assert pool.filled == room - 1


def test_waiting_for_speech_that_nobody_makes_is_an_error(folder):
    with pool_of(folder) as (pool, _), pytest.raises(RuntimeError, match=r"ended with 4 chunks in .*, not 5"):
        pool.read(5)


def test_the_pool_takes_as_many_chunks_as_it_is_told_and_no_others(folder):
    with pool_of(folder, most=2) as (pool, listener):
        pool.read(2)
        pool.read()
        assert len(listener.told) == 2
        with pytest.raises(RuntimeError, match="there are 2 chunks at most, not 3"):
            pool.read(3)


def test_a_pool_too_small_for_any_speech_is_an_error(folder):
    with pool_of(folder, 100) as (pool, _), pytest.raises(ValueError, match="100 samples are too few"):
        pool.read(1)


def test_a_chunk_that_cannot_be_read_is_an_error(tmp_path):
    chunk_path(tmp_path, 0).write_bytes(b"no chunk")
    with pool_of(tmp_path) as (pool, _), pytest.raises(Exception, match=r"(?i)npz|zip|pickle"):
        pool.read(1)


@contextmanager
def drawing_of(*batchers: Batcher, seed: int = 1) -> Iterator[Drawing]:
    before = multiprocessing.active_children()
    drawing = Drawing(batchers, seed)
    try:
        yield drawing
    finally:
        drawing.close()
    assert multiprocessing.active_children() == before


def test_batches_drawn_ahead_are_those_of_the_batcher(batcher, built, pairs, chunks):
    twin = batcher_of(built, pairs)
    twin.add(chunks[0], 7)
    with drawing_of(batcher) as drawing:
        drawing.add(chunks[0], 7)
        for _ in range(3):
            index, batch = drawing.next()
            for name, values in vars(twin.batch(index)).items():
                np.testing.assert_array_equal(getattr(batch, name), values)


def test_replicas_draw_other_batches_of_the_same_buckets(built, pairs, chunks):
    """Two processes draw for the first, which may overtake each other; one draws for the second."""
    batchers = [batcher_of(built, pairs, seed=seed) for seed in range(3)]
    with drawing_of(*batchers[:2], seed=9) as one, drawing_of(batchers[2], seed=9) as two:
        for drawing in (one, two):
            drawing.add(chunks[0], 0)
        drawn = [(one.next(), two.next()) for _ in range(40)]
    buckets = [index for (index, _), _ in drawn]

    assert buckets == [index for _, (index, _) in drawn]
    assert not any(np.array_equal(a.labels, b.labels) for (_, a), (_, b) in drawn)
    # By their shares, of which the second is the largest.
    assert set(buckets) == {0, 1, 2}
    assert buckets.count(1) > buckets.count(2)


def test_a_drawing_process_that_died_is_an_error(batcher):
    with drawing_of(batcher) as drawing:
        for process in multiprocessing.active_children():
            process.terminate()
        with pytest.raises(RuntimeError, match="a process that draws batches has died"):
            drawing.next()
