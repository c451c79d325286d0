"""Decode steps of fixed shapes: one token for each of a batch of sequences.

On a GPU a decoder's step is thousands of kernels of a few microseconds, and starting them takes longer than
they run. So a step is recorded once for each shape as a CUDA graph and replayed from then on; its inputs lie
in memory of its own that is filled anew. Batches are filled up to powers of two, and block tables to that of
the longest sequence, to have few shapes.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import SLIDING
from pipeline.gemma.ahead import Ahead, Lines
from pipeline.gemma.cache import BLOCK, KVCache, KVPool
from pipeline.gemma.decoder import Decoder

LEAST_BLOCKS = 8
"""Blocks of the smallest tables."""


class FixedSteps:
    """Steps of one decoder over one pool.

    Args:
        decoder: its weights must not move.
        pool: where the caches are; when it grows, steps are recorded anew.
        choices: how many ids, from 0 on, may be chosen.
        ffn_widths: of the MatFormer sub-model, one per layer; None for the whole model.
    """

    def __init__(
        self, decoder: Decoder, pool: KVPool, choices: int, ffn_widths: tuple[int, ...] | None = None
    ) -> None:
        self.decoder = decoder
        # The pool refers to its steps: referring back would keep its memory until the next collection.
        self._pool = weakref.ref(pool)
        self.choices = choices
        self.ffn_widths = ffn_widths
        self._recorded: dict[tuple[int, ...], _Step] = {}
        self._buffers: list[tuple[int, int]] = []
        self._on_gpu = decoder.embed_tokens.weight.is_cuda
        # What a step computes on the way is needed no more when the next one runs: all share its memory.
        self.memory: Any = None
        # Where steps run before they are recorded.
        self.aside: Any = torch.cuda.Stream() if self._on_gpu else None  # type: ignore[no-untyped-call]

    @property
    def pool(self) -> KVPool:
        """Where the caches are; it lives at least as long as they do."""
        pool = self._pool()
        assert pool is not None
        return pool

    def prepare(self, sequences: int, positions: int) -> None:
        """Record now what would otherwise be recorded when it first comes, in the midst of live speech.

        Args:
            sequences: most of them in a batch.
            positions: of the longest.
        """
        self._follow_pool()
        widest = _power(-(-positions // BLOCK), LEAST_BLOCKS)
        # From large to small, so that what a small one needs finds room where a large one was.
        for blocks in _powers_down(widest, LEAST_BLOCKS):
            for batch in _powers_down(_power(sequences, 1), 1):
                self._step(batch, blocks).run()

    def step(self, caches: Sequence[KVCache], token_ids: Sequence[int]) -> list[int]:
        """Append a token to each sequence; returns the most likely next ones.

        Args:
            caches: with a position reserved each; the caller advances them.
            token_ids: ids of text, one for each.
        """
        self._follow_pool()
        seen = {kind: [cache.blocks(kind, 1) for cache in caches] for kind in self.pool.kinds}
        step = self._step(len(caches), max(len(ids) for lines in seen.values() for _, ids in lines))
        step.fill(caches, token_ids, seen)
        return step.run()[: len(caches)]

    def _follow_pool(self) -> None:
        """Forget what was recorded over buffers that the pool no longer has."""
        buffers = [(blocks.buffer.data_ptr(), len(blocks.buffer[0])) for blocks in self.pool.kinds.values()]
        if buffers != self._buffers:
            self._recorded.clear()
            self._buffers = buffers
            # Memory that all its graphs have left cannot be recorded into again.
            self.memory = torch.cuda.graph_pool_handle() if self._on_gpu else None

    def _step(self, sequences: int, blocks: int) -> _Step:
        """The step that so many sequences of at most so many blocks fit into."""
        batch, blocks = _power(sequences, 1), _power(blocks, LEAST_BLOCKS)
        window = 1 + -(-(self.decoder.config.sliding_window - 1) // BLOCK)
        widths = [min(blocks, window) if kind == SLIDING else blocks for kind in self.pool.kinds]
        step = self._recorded.get((batch, *widths))
        if step is None:
            step = self._recorded[batch, *widths] = _Step(self, batch, tuple(widths))
        return step


class _Step:
    """A step of one shape with its inputs."""

    def __init__(self, of: FixedSteps, batch: int, widths: tuple[int, ...]) -> None:
        self._of = of
        weight, config = of.decoder.embed_tokens.weight, of.decoder.config
        device = weight.device
        layers, width = config.num_hidden_layers, config.hidden_size_per_layer_input
        self._rows = torch.zeros((1, batch, layers, width), dtype=weight.dtype, device=device)
        # Everything else in one piece, so that one copy brings it: ids, positions, and for each kind of
        # layers where to write, where what is read begins, and the table.
        sizes = [batch, batch]
        for blocks in widths:
            sizes += [batch, batch, batch * blocks]
        on_cpu = torch.zeros(sum(sizes), dtype=torch.int64, pin_memory=device.type == "cuda")
        self._source = on_cpu
        self._inputs = on_cpu.to(device, copy=True)
        self._filled = [part.numpy() for part in torch.split(on_cpu, sizes)]
        parts = torch.split(self._inputs, sizes)
        lines = {
            kind: Lines(parts[at], parts[at + 2].view(batch, -1), parts[at + 1])
            for kind, at in zip(of.pool.kinds, range(2, len(sizes), 3), strict=True)
        }
        self._ids = parts[0][None]
        self._ahead = Ahead(parts[1], lines, None, None)
        self._ahead.wanted = self._ahead
        self._chosen = torch.zeros(batch, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def fill(
        self,
        caches: Sequence[KVCache],
        token_ids: Sequence[int],
        seen: dict[str, list[tuple[int, NDArray[np.int64]]]],
    ) -> None:
        """Put the inputs of a batch in place; what fills it up writes into the block that is nobody's."""
        count = len(caches)
        for part in self._filled:
            part[:] = 0
        self._filled[0][:count] = token_ids
        self._filled[1][:count] = [cache.length for cache in caches]
        offsets = self._filled[1][:count] % BLOCK
        for at, lines in zip(range(2, len(self._filled), 3), seen.values(), strict=True):
            # The last block that a position sees is the one that it lies in.
            self._filled[at][:count] = [ids[-1] * BLOCK for _, ids in lines] + offsets
            self._filled[at + 1][:count] = [first for first, _ in lines]
            table = self._filled[at + 2].reshape(len(self._filled[0]), -1)
            for row, (_, ids) in zip(table, lines, strict=False):
                row[: len(ids)] = ids
        padded = torch.from_numpy(self._filled[0])[None]
        self._rows.copy_(self._of.decoder.embed_tokens_per_layer(padded, self._rows))
        self._inputs.copy_(self._source, non_blocking=True)

    def run(self) -> list[int]:
        """Compute, on a GPU by replaying what the first run recorded."""
        if self._inputs.device.type != "cuda":
            self._compute()
        elif self._graph is None:
            self._record()
        if self._graph is not None:
            self._graph.replay()
        chosen: list[int] = self._chosen.tolist()
        return chosen

    def _record(self) -> None:
        # Before, on a stream of its own, as recording wants it: libraries allocate in their first run.
        aside = self._of.aside
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._compute()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may be using the device for something else meanwhile.
        with torch.cuda.graph(graph, pool=self._of.memory, capture_error_mode="thread_local"):
            self._compute()
        self._graph = graph

    def _compute(self) -> None:
        of = self._of
        embeddings = of.decoder.embed(self._ids)
        hidden = of.decoder.next_hidden(self._rows, embeddings, of.pool, self._ahead, of.ffn_widths)
        self._chosen.copy_(of.decoder.logits(hidden[0])[:, : of.choices].argmax(-1))


def _power(count: int, least: int) -> int:
    """The smallest power of two that is at least ``count`` and ``least``."""
    return max(least, 1 << (count - 1).bit_length())


def _powers_down(most: int, least: int) -> list[int]:
    return [1 << power for power in range(most.bit_length() - 1, least.bit_length() - 2, -1)]
