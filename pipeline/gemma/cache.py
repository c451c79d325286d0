"""Keys and values of many sequences, in blocks that sequences share.

Sequences are extended, cut back and forked at any step. A fork costs no copy: both sequences point to the
blocks of their common past, and whoever writes into a block that is shared takes a copy of that one block
(Kwon et al. 2023, PagedAttention, arXiv:2309.06180). Layers above the sharing point own no keys and values,
so they have no blocks; sliding layers let go of the blocks that have left their window.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import SLIDING, TextConfig
from pipeline.errors import ContextError
from pipeline.transfers import to_device

BLOCK = 16
"""Positions in a block."""

NOBODYS = 2
"""Blocks that belong to no sequence: what tables are filled up with, which stays zero, and the spare one."""

SPARE_ROW = BLOCK
"""Where in a pool that is written which only fills up a pass, and which nobody reads."""

COPIES_AT_ONCE = 32
"""Blocks that are copied by one call; they take their size in memory once more meanwhile."""

INITIAL_BLOCKS = 32
"""Blocks of each kind that a pool starts with unless told otherwise."""


class Blocks:
    """The blocks of all layers of one kind, sliding or full.

    Block 0 belongs to nobody: it is what tables are filled up with, and stays zero. What fills up a pass is
    written to block 1, so that whatever comes of it reaches no sequence.

    Args:
        layers: indices of the layers, all below the sharing point.
        config: sizes.
        count: how many blocks to start with; more are made when these are taken.
        dtype: of keys and values.
        device: where they lie.
    """

    def __init__(
        self, layers: list[int], config: TextConfig, count: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.index = {layer: at for at, layer in enumerate(layers)}
        # [layer, block, position in it, key or value, kv head, head_dim]; zeros, for what is masked is
        # multiplied by zero all the same.
        shape = (len(layers), count, BLOCK, 2, config.num_key_value_heads, config.head_dim)
        self.buffer = torch.zeros(shape, dtype=dtype, device=device)
        self._uses = np.zeros(count, np.int32)
        self._uses[:NOBODYS] = 1
        # Copies that :meth:`copy` is still to fill, each with the shared block that it stands for.
        self._copies: dict[int, int] = {}
        self._free = list(range(count - 1, NOBODYS - 1, -1))

    @property
    def taken(self) -> int:
        """Blocks that sequences hold."""
        return len(self._uses) - NOBODYS - len(self._free)

    def take(self, count: int) -> list[int]:
        """Ids of ``count`` blocks for one sequence."""
        self.make_room(count)
        taken = [self._free.pop() for _ in range(count)]
        self._uses[taken] = 1
        for id_ in taken:
            # Of a sequence that is gone, and was never filled for want of memory.
            self._copies.pop(id_, None)
        return taken

    def make_room(self, count: int) -> None:
        """See that so many can be taken without asking for memory."""
        if count > len(self._free):
            self._grow(count - len(self._free))

    def share(self, ids: NDArray[np.int64]) -> None:
        """Have one more sequence hold these blocks."""
        self._uses[ids] += 1

    def release(self, ids: NDArray[np.int64]) -> None:
        """Have one sequence less hold these blocks."""
        self._uses[ids] -= 1
        self._free.extend(ids[self._uses[ids] == 0].tolist())

    def own(self, block: int) -> int:
        """The block itself if one sequence holds it, or else another, which :meth:`copy` is to fill."""
        if self._uses[block] == 1:
            return block
        (copy,) = self.take(1)
        self._copies[copy] = block
        self._uses[block] -= 1
        return copy

    def copy(self) -> None:
        """Fill blocks that stand for shared ones; many at once, for each copy is a call of the device."""
        while self._copies:
            some = dict(islice(self._copies.items(), COPIES_AT_ONCE))
            copies, blocks = to_device(torch.tensor([[*some], [*some.values()]]), self.buffer.device)
            self.buffer.index_copy_(1, copies, self.buffer.index_select(1, blocks))
            # Where memory ended before, they are still to be filled.
            for copy in some:
                del self._copies[copy]

    def _grow(self, least: int) -> None:
        had = len(self._uses)
        more = max(least, had)
        empty = self.buffer.new_zeros((self.buffer.shape[0], more, *self.buffer.shape[2:]))
        self.buffer = torch.cat([self.buffer, empty], dim=1)
        self._uses = np.concatenate([self._uses, np.zeros(more, np.int32)])
        self._free = [*range(had + more - 1, had - 1, -1), *self._free]


class KVPool:
    """Where the sequences of one batch have their keys and values. It serves one thread.

    Args:
        config: sizes.
        dtype: of keys and values.
        device: where they lie.
        positions: room to start with, in positions of all sequences together; more is made when needed.
    """

    def __init__(
        self, config: TextConfig, dtype: torch.dtype, device: torch.device, positions: int = 0
    ) -> None:
        self.config = config
        self.kinds: dict[str, Blocks] = {}
        # Steps over this pool, by the sub-model whose they are; it lives as long as they do.
        self.steps: dict[tuple[int, ...] | None, Any] = {}
        own = config.layer_types[: config.first_shared_layer]
        for kind in sorted(set(own)):
            layers = [layer for layer, type_ in enumerate(own) if type_ == kind]
            count = max(INITIAL_BLOCKS, NOBODYS + -(-positions // BLOCK))
            self.kinds[kind] = Blocks(layers, config, count, dtype, device)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, taken or not."""
        return sum(blocks.buffer.nbytes for blocks in self.kinds.values())

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write one layer's part of new positions; what is no number is written as zero.

        Whoever takes a block next reads what is left in it too: masked, but NaN would come through the mask.

        Args:
            layer: below the sharing point.
            rows: where, counted in positions of the pool, int64 [N].
            keys: [N, kv_heads, head_dim].
            values: the same.
        """
        blocks = self.kinds[self.config.layer_types[layer]]
        own = blocks.buffer[blocks.index[layer]].flatten(0, 1)
        own.index_copy_(0, rows, torch.stack([keys, values], dim=1).nan_to_num_(0.0, 0.0, 0.0))

    def pages(self, layer: int) -> tuple[Tensor, Tensor]:
        """One layer's keys and values of all blocks, [blocks, BLOCK, kv_heads, head_dim] each; no copies."""
        blocks = self.kinds[self.config.layer_types[layer]]
        own = blocks.buffer[blocks.index[layer]]
        return own[:, :, 0], own[:, :, 1]

    def read(self, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the blocks of some sequences.

        Args:
            layer: below the sharing point.
            table: ids of blocks, int64 [n, blocks].

        Returns:
            [n, kv_heads, blocks * BLOCK, head_dim] each.
        """
        blocks = self.kinds[self.config.layer_types[layer]]
        own = blocks.buffer[blocks.index[layer]].index_select(0, table.flatten())
        both = own.view(table.shape[0], -1, *own.shape[2:])
        return both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)


class KVCache:
    """One sequence: which blocks of a pool hold its keys and values.

    The blocks go back to the pool when the sequence is no longer referred to.

    Args:
        pool: where the blocks are.
        limit: most positions that the sequence may have.
    """

    def __init__(self, pool: KVPool, limit: int) -> None:
        self.pool = pool
        self.limit = limit
        self.length = 0
        # What is the same in all MatFormer sub-models that may compute its positions.
        self._group: tuple[int, ...] | None = None
        room = -(-limit // BLOCK)
        # By kind: ids of blocks by their place in the sequence, and the first of them that is still held.
        self._tables = {kind: np.zeros(room, np.int64) for kind in pool.kinds}
        self._first = dict.fromkeys(pool.kinds, 0)
        # End of the places that have blocks, of all kinds.
        self._end = 0

    def __del__(self) -> None:
        self._release(0)

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that the sequence holds, whether or not it shares them."""
        return sum(
            blocks.buffer[:, 0].nbytes * (self._end - self._first[kind])
            for kind, blocks in self.pool.kinds.items()
        )

    def check(self, count: int) -> None:
        """See that ``count`` more positions may come.

        Raises:
            ContextError: the sequence would be longer than its limit.
        """
        if self.length + count > self.limit:
            raise ContextError(f"a sequence of {self.length + count} positions, at most {self.limit} fit")

    def join(self, group: tuple[int, ...]) -> None:
        """Have the next positions computed by a sub-model of a group that writes the same keys and values.

        Args:
            group: as :func:`pipeline.gemma.matformer.kv_group` has it.

        Raises:
            ValueError: the positions held were computed by one of another group.
        """
        if self.length and group != self._group:
            raise ValueError("this sub-model computes other keys and values than the sequence has so far")
        self._group = group

    def reserve(self, count: int) -> None:
        """Make room for the ``count`` positions that come next, which count when :meth:`advance` is called.

        What was held only for going back behind the last pass is let go.

        Raises:
            ContextError: the sequence would be longer than its limit.
        """
        reserve([self], [count])

    def _reserve(self, count: int) -> None:
        """Make room, but for what is in blocks that were shared."""
        self.check(count)
        end = max(self._end, -(-(self.length + count) // BLOCK))
        more, last = end - self._end, self.length // BLOCK if self.length % BLOCK else None
        for kind, blocks in self.pool.kinds.items():
            first = self._needed(kind, self.length) // BLOCK
            if first > self._first[kind]:
                blocks.release(self._tables[kind][self._first[kind] : first])
                self._first[kind] = first
            # Of all kinds before any are taken: where memory ends, blocks of one kind alone would be lost.
            blocks.make_room(more + (last is not None))
        for kind, blocks in self.pool.kinds.items():
            table = self._tables[kind]
            if last is not None:
                table[last] = blocks.own(int(table[last]))
            if more:
                table[self._end : end] = blocks.take(more)
        self._end = end

    def advance(self, count: int) -> None:
        """Hold the ``count`` positions that all layers have written."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget all positions from ``length`` on.

        That takes what the sliding layers' window was there, so one can go back to anywhere behind the last
        pass, and further while it is still held. To go back further than that, :meth:`fork` beforehand.

        Raises:
            ValueError: fewer are held, or the window there is no longer.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} positions to {length}")
        if any(self._needed(kind, length) < first * BLOCK for kind, first in self._first.items()):
            raise ValueError(f"cannot truncate a cache to {length} positions: it has let their past go")
        self._release(-(-length // BLOCK))
        self.length = length

    def fork(self) -> Self:
        """Another sequence with the same past, of which nothing is copied."""
        twin = type(self)(self.pool, self.limit)
        twin.length = self.length
        twin._group = self._group
        end = -(-self.length // BLOCK)
        for kind, blocks in self.pool.kinds.items():
            held = self._tables[kind][self._first[kind] : end]
            blocks.share(held)
            twin._tables[kind][self._first[kind] : end] = held
            twin._first[kind] = self._first[kind]
        twin._end = end
        return twin

    def rows(self, kind: str, count: int) -> NDArray[np.int64]:
        """Where in the pool the next ``count`` positions are, which have been reserved."""
        positions = np.arange(self.length, self.length + count)
        rows: NDArray[np.int64] = self._tables[kind][positions // BLOCK] * BLOCK + positions % BLOCK
        return rows

    def blocks(self, kind: str, count: int) -> tuple[int, NDArray[np.int64]]:
        """What the next ``count`` positions see: the position where the first block begins, and block ids."""
        first = self._needed(kind, self.length) // BLOCK
        return first * BLOCK, self._tables[kind][first : -(-(self.length + count) // BLOCK)]

    def _needed(self, kind: str, length: int) -> int:
        """First position that is seen from position ``length``."""
        return max(0, length - self.pool.config.sliding_window + 1) if kind == SLIDING else 0

    def _release(self, end: int) -> None:
        for kind, blocks in self.pool.kinds.items():
            blocks.release(self._tables[kind][max(end, self._first[kind]) : self._end])
        self._end = end


def reserve(caches: Sequence[KVCache], counts: Sequence[int]) -> None:
    """Make room in several sequences of one pool, as :meth:`KVCache.reserve` does in one.

    Args:
        caches: the sequences.
        counts: positions that come next in each.

    Raises:
        ContextError: one of them would be longer than its limit.
    """
    try:
        for cache, count in zip(caches, counts, strict=True):
            cache._reserve(count)
    finally:
        for blocks in caches[0].pool.kinds.values():
            blocks.copy()


def most_bytes(config: TextConfig, dtype: torch.dtype, *, trunk: int, piece: int, branches: list[int]) -> int:
    """Upper bound of what one stream's sequences hold together.

    Args:
        config: sizes.
        dtype: of keys and values.
        trunk: longest sequence that others branch off.
        piece: most positions that are appended to it at once.
        branches: lengths of the sequences that branch off it or off each other.
    """
    position = 2 * config.num_key_value_heads * config.head_dim * dtype.itemsize
    total = 0
    for layer in range(config.first_shared_layer):
        held = trunk
        if config.layer_types[layer] == SLIDING:
            # Blocks are let go when the next piece comes, and begin and end somewhere in the window.
            held = min(trunk, config.sliding_window + 2 * piece + BLOCK)
        # A branch shares whole blocks and copies the one that it begins in.
        blocks = -(-held // BLOCK) + sum(1 + -(-length // BLOCK) for length in branches)
        total += blocks * BLOCK * position
    return total
