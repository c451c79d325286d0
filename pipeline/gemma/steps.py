"""Passes of one decoder over one pool in fixed shapes, which a GPU records as graphs and replays.

The most frequent of them is the decode step: one token for each of a batch of sequences. Batches of steps are
filled up to powers of two, and block tables to that of the longest sequence, to have few shapes; those of
other passes are in :mod:`pipeline.gemma.passes`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.config import SLIDING
from pipeline.gemma.ahead import Ahead
from pipeline.gemma.cache import BLOCK, SPARE_ROW, KVCache, KVPool
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.paged import Tiles
from pipeline.gemma.passes import (
    FixedPass,
    Later,
    Seen,
    Setting,
    Shape,
    blocks_seen,
    fill_lines,
    filled_up,
    later,
    lines_of,
    to_prepare,
)
from pipeline.graphs import Fixed, Recorder

LEAST_BLOCKS = 8
"""Blocks of the smallest tables."""


class FixedSteps:
    """Passes of one decoder over one pool.

    Args:
        decoder: its weights must not move.
        pool: where the caches are; when it grows, passes are recorded anew.
        choices: how many ids, from 0 on, may be chosen.
        ffn_widths: of the MatFormer sub-model, one per layer; None for the whole model.
        skip: whether the layers that share KV run over the positions alone that are wanted; False to see
            what that spares.
    """

    def __init__(
        self,
        decoder: Decoder,
        pool: KVPool,
        choices: int,
        ffn_widths: tuple[int, ...] | None = None,
        *,
        skip: bool = True,
    ) -> None:
        self._recorder = Recorder(decoder.embed_tokens.weight.device)
        # The pool refers to its passes: referring back would keep its memory until the next collection.
        self._setting = Setting(self._recorder, decoder, weakref.proxy(pool), choices, ffn_widths, skip)
        self._steps: dict[tuple[int, ...], _Step] = {}
        self._passes: dict[Shape, FixedPass] = {}
        self._buffers: list[tuple[int, int]] = []

    @property
    def shapes(self) -> int:
        """How many there are so far; more of them later were not prepared for."""
        return len(self._steps) + len(self._passes)

    def prepare(self, sequences: int, positions: int) -> None:
        """Record now what would otherwise be recorded when it first comes, in the midst of live speech.

        Args:
            sequences: most of them in a batch.
            positions: of the longest.
        """
        self._follow_pool()
        widest = filled_up(-(-positions // BLOCK), LEAST_BLOCKS)
        # From large to small, so that what a small one needs finds room where a large one was.
        for shape in to_prepare(sequences, positions):
            if shape not in self._passes:
                fixed = FixedPass(self._setting, shape)
                fixed.run()
                self._passes[shape] = fixed
        for blocks in _powers_down(widest, LEAST_BLOCKS):
            for batch in _powers_down(filled_up(sequences, 1), 1):
                self._step(batch, blocks).run()

    def step(self, caches: Sequence[KVCache], token_ids: Sequence[int]) -> list[Later]:
        """Append a token to each sequence; returns the most likely next one of each.

        Args:
            caches: with a position reserved each; the caller advances them.
            token_ids: ids of text, one for each.
        """
        self._follow_pool()
        seen = self._seen(caches, [1] * len(caches))
        step = self._step(len(caches), _widest(seen))
        step.fill(caches, token_ids, seen)
        step.run()
        return step.chosen(len(caches))

    def go_on(
        self,
        caches: Sequence[KVCache],
        counts: Sequence[int],
        keeps: Sequence[int],
        rows: Tensor,
        embeddings: Tensor,
    ) -> list[Later]:
        """Append any number of tokens to each sequence; returns the most likely next ones.

        Args:
            caches: with the positions reserved; the caller advances them.
            counts: how many tokens there are for each, of all together no more than fit in a pass.
            keeps: behind how many of the last of them the next ones are asked for.
            rows: of the per-layer embedding table, one sequence's behind the other's, [1, n, layers, ple].
            embeddings: input embeddings with audio merged in, [1, n, hidden].
        """
        self._follow_pool()
        seen = self._seen(caches, counts)
        shape = Shape.of(counts, keeps, _widest(seen))
        found = min((known for known in self._passes if known.covers(shape)), key=_cost, default=shape)
        fixed = self._passes.get(found) or FixedPass(self._setting, found)
        fixed.fill(caches, counts, rows, embeddings, seen)
        fixed.run()
        # Not before: one that memory was too short for would be found again for what is tried instead.
        self._passes[found] = fixed
        return fixed.chosen(counts, keeps)

    def _seen(self, caches: Sequence[KVCache], counts: Sequence[int]) -> Seen:
        return {
            kind: [cache.blocks(kind, count) for cache, count in zip(caches, counts, strict=True)]
            for kind in self._setting.pool.kinds
        }

    def _follow_pool(self) -> None:
        """Forget what was recorded over buffers that the pool no longer has."""
        kinds = self._setting.pool.kinds.values()
        buffers = [(blocks.buffer.data_ptr(), len(blocks.buffer[0])) for blocks in kinds]
        if buffers != self._buffers:
            self._steps.clear()
            self._passes.clear()
            self._buffers = buffers
            self._recorder.begin_anew()

    def _step(self, sequences: int, blocks: int) -> _Step:
        """The step that so many sequences of at most so many blocks fit into."""
        batch, blocks = filled_up(sequences, 1), filled_up(blocks, LEAST_BLOCKS)
        window = blocks_seen(self._setting.decoder.config, 1)
        widths = [min(blocks, window) if kind == SLIDING else blocks for kind in self._setting.pool.kinds]
        step = self._steps.get((batch, *widths))
        if step is None:
            step = self._steps[batch, *widths] = _Step(self._setting, batch, tuple(widths))
        return step


class _Step(Fixed):
    """A step of one shape with its inputs."""

    def __init__(self, setting: Setting, batch: int, widths: tuple[int, ...]) -> None:
        # Ids, positions; for each kind of layers where to write, where what is read begins, and the table.
        sizes = [batch, batch]
        for blocks in widths:
            sizes += [batch, batch, batch * blocks]
        super().__init__(setting.recorder, sizes)
        for write in self.filled[2::3]:
            write[:] = SPARE_ROW
        self._setting = setting
        weight, config = setting.decoder.embed_tokens.weight, setting.decoder.config
        layers, width = config.num_hidden_layers, config.hidden_size_per_layer_input
        self._rows = weight.new_zeros((1, batch, layers, width))
        self._chosen = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        lines = lines_of(setting.pool, self.inputs[2:], batch)
        self._ahead = Ahead(self.inputs[1], lines, tiles=Tiles.of_one_each(batch, weight.device))
        self._ahead.wanted = self._ahead

    def fill(self, caches: Sequence[KVCache], token_ids: Sequence[int], seen: Seen) -> None:
        """Put the inputs of a batch in place."""
        self.clear()
        count = len(caches)
        self.filled[0][:count] = token_ids
        self.filled[1][:count] = [cache.length for cache in caches]
        fill_lines(self.filled[2:], seen, np.arange(count), self.filled[1][:count])
        padded = torch.from_numpy(self.filled[0])[None]
        self._rows.copy_(self._setting.decoder.embed_tokens_per_layer(padded, self._rows))

    def chosen(self, count: int) -> list[Later]:
        """The most likely id behind each token of a batch."""
        return later(self._chosen, [slice(at, at + 1) for at in range(count)])

    def compute(self) -> None:
        """See :class:`~pipeline.graphs.Fixed`."""
        setting = self._setting
        embeddings = setting.decoder.embed(self.inputs[0][None])
        hidden = setting.decoder.next_hidden(
            self._rows, embeddings, setting.pool, self._ahead, setting.ffn_widths
        )
        self._chosen.copy_(setting.choose(hidden[0]))


def _widest(seen: Seen) -> int:
    """Blocks of the longest table; full layers see all of a sequence, if there are such layers."""
    return max(len(ids) for lines in seen.values() for _, ids in lines)


def _cost(shape: Shape) -> tuple[int, ...]:
    return shape.cost


def _powers_down(most: int, least: int) -> list[int]:
    return [1 << power for power in range(most.bit_length() - 1, least.bit_length() - 2, -1)]
