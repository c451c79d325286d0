"""The next positions of many sequences, to be computed in one pass: where they belong and what they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.gemma.cache import KVCache
from pipeline.gemma.paged import Tiles
from pipeline.transfers import array_to_device


@dataclass(frozen=True, slots=True)
class Lines:
    """Where one kind of layers, sliding or full, writes and reads.

    Attributes:
        write: where in the pool each position goes, int64 [N].
        table: blocks that each sequence reads, int64 [sequences, blocks]; those behind its own are block 0.
        first: position of the first key in them, int64 [sequences].
    """

    write: Tensor
    table: Tensor
    first: Tensor


@dataclass(slots=True)
class Ahead:
    """The next N positions of many sequences, one sequence behind the other.

    Attributes:
        positions: of each in its sequence, int64 [N].
        lines: by kind of layers.
        of: which positions of a larger pass these are, int64 [N]; None if they are such a pass themselves.
        wanted: the positions whose hidden states are wanted; itself if all are, None if none is.
        apart: as :class:`~pipeline.gemma.attention.View` has it.
        together: the same.
        tiles: queries that read keys and values in their blocks; None where these are copied for them.
    """

    positions: Tensor
    lines: dict[str, Lines]
    of: Tensor | None = None
    wanted: Ahead | None = None
    apart: Tensor | None = None
    together: Tensor | None = None
    tiles: Tiles | None = None

    @classmethod
    def of_sequences(
        cls, caches: Sequence[KVCache], counts: Sequence[int], keeps: Sequence[int], device: torch.device
    ) -> Ahead:
        """Plan a pass.

        Args:
            caches: of one pool, each with the positions reserved.
            counts: how many positions come next in each, at least 1.
            keeps: for how many of the last of these hidden states are wanted.
            device: where the tensors are needed.
        """
        whole = cls._of_last(caches, counts, counts, device, None)
        kept = [at for at, keep in enumerate(keeps) if keep]
        if not kept:
            return whole
        if list(keeps) == list(counts):
            whole.wanted = whole
            return whole
        ends = np.cumsum(counts)
        of = np.concatenate([np.arange(ends[at] - keeps[at], ends[at]) for at in kept])
        wanted = cls._of_last(
            [caches[at] for at in kept],
            [counts[at] for at in kept],
            [keeps[at] for at in kept],
            device,
            array_to_device(of, device),
        )
        whole.wanted = wanted
        return whole

    @classmethod
    def _of_last(
        cls,
        caches: Sequence[KVCache],
        counts: Sequence[int],
        last: Sequence[int],
        device: torch.device,
        of: Tensor | None,
    ) -> Ahead:
        """The ``last`` of the next ``counts`` positions of each sequence."""
        positions = np.concatenate(
            [
                np.arange(cache.length + count - queries, cache.length + count)
                for cache, count, queries in zip(caches, counts, last, strict=True)
            ]
        )
        lines = {}
        for kind in caches[0].pool.kinds:
            write = np.concatenate(
                [
                    cache.rows(kind, count)[count - queries :]
                    for cache, count, queries in zip(caches, counts, last, strict=True)
                ]
            )
            seen = [cache.blocks(kind, count) for cache, count in zip(caches, counts, strict=True)]
            table = np.zeros((len(caches), max(len(blocks) for _, blocks in seen)), np.int64)
            for line, (_, blocks) in zip(table, seen, strict=True):
                line[: len(blocks)] = blocks
            first = np.array([first for first, _ in seen])
            lines[kind] = Lines(
                array_to_device(write, device), array_to_device(table, device), array_to_device(first, device)
            )
        apart = together = None
        most = max(last)
        if min(last) < most:
            ends = np.cumsum(last)
            # Where a sequence has fewer queries than others, its last one stands in again.
            within = np.minimum(np.arange(most), np.array(last)[:, None] - 1)
            apart = array_to_device((ends - np.array(last))[:, None] + within, device)
            together = array_to_device(
                np.concatenate([np.arange(queries) + at * most for at, queries in enumerate(last)]), device
            )
        return cls(array_to_device(positions, device), lines, of, apart=apart, together=together)
