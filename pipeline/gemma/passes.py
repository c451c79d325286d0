"""Passes of fixed shapes over the next positions of many sequences, any number of each.

The positions of all sequences lie one behind the other and are filled up to one of a few lengths, as are the
number of sequences and the block tables. When they attend, the queries of several sequences go into tiles
(:mod:`pipeline.gemma.paged`), which need not be filled up to the longest; one sequence alone needs none. What
only fills up computes something that nobody reads, and writes it into a block of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import SLIDING, TextConfig
from pipeline.gemma.ahead import Ahead, Lines
from pipeline.gemma.cache import BLOCK, SPARE_ROW, KVCache, KVPool
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.paged import Tiles, fill_tiles, most_tiles, queries_of
from pipeline.graphs import Fixed, Recorder
from pipeline.transfers import Fetched

NONE, LAST, ALL = range(3)
"""Which positions the layers that share KV run over: none, the last of each sequence, or all."""

MOST_POSITIONS = 2048
"""Most positions in a pass."""

LEAST_TABLE = 32
"""Blocks of the smallest tables; keys that are not there cost less than one more shape to record."""

SEQUENCES = (1, 8, 64, 512)
TOTAL = (16, 64, 128, 256, 512, 1024, 2048)
ALONE = (4, *TOTAL)
"""What is filled up to: sequences, positions of all together, of one alone."""

SMALL = 256
"""Positions below which a pass takes about as long whatever their number: it reads all weights."""

LONG = 256
"""Positions of one sequence above which it is better off alone than in tiles, which read its keys again and
again."""

LOGITS_AT_ONCE = 512
"""Positions whose logits are there at the same time, a quarter of a gigabyte of 262,144 words."""


class Shape(NamedTuple):
    """The shape of a pass.

    Attributes:
        positions: of all sequences.
        sequences: how many.
        wanted: NONE, LAST or ALL.
        blocks: of the longest table.
    """

    positions: int
    sequences: int
    wanted: int
    blocks: int

    @classmethod
    def of(cls, counts: Sequence[int], keeps: Sequence[int], blocks: int) -> Shape:
        """The smallest shape for sequences with so many new positions, of which so many are wanted."""
        wanted, blocks = min(max(keeps), ALL), filled_up(blocks, LEAST_TABLE)
        if len(counts) == 1:
            return cls(_next(ALONE, counts[0]), 1, wanted, blocks)
        return cls(_next(TOTAL, sum(counts)), _next(SEQUENCES, len(counts)), wanted, blocks)

    def covers(self, other: Shape) -> bool:
        """Whether a pass of the other shape can be one of this, at a cost that is not out of proportion."""
        return (
            self.tiled == other.tiled
            and self.positions <= max(SMALL, 4 * other.positions)
            and all(own >= its for own, its in zip(self, other, strict=True))
        )

    @property
    def tiled(self) -> bool:
        """Whether its queries go into tiles."""
        return self.sequences > 1

    @property
    def cost(self) -> tuple[int, int, int]:
        """To be compared: work of the layers, tiles, tables."""
        return self.positions * (2 + self.wanted), self.sequences, self.blocks

    def width(self, kind: str, config: TextConfig) -> int:
        """Blocks in the tables of one kind of layers."""
        if kind == SLIDING and not self.tiled:
            return min(self.blocks, blocks_seen(config, self.positions))
        return self.blocks


def blocks_seen(config: TextConfig, count: int) -> int:
    """Most blocks of a sliding layer that the next ``count`` positions of a sequence see."""
    return 1 + -(-(config.sliding_window + count - 2) // BLOCK)


def _next(ladder: Sequence[int], count: int) -> int:
    """The smallest of a ladder that is at least ``count``; powers of two above it."""
    return next((step for step in ladder if step >= count), filled_up(count, 1))


def filled_up(count: int, least: int) -> int:
    """The smallest power of two that is at least ``count`` and ``least``."""
    return max(least, 1 << (count - 1).bit_length())


def to_prepare(sequences: int, positions: int) -> Iterator[Shape]:
    """Shapes that cover passes of live speech, from large to small.

    Soft tokens and last words come a few at a time, instructions and drafts up to some hundred. What else
    may come is covered by these too, if with more to fill up, or is recorded when it comes.

    Args:
        sequences: most of them in a pass.
        positions: of the longest.
    """
    blocks = filled_up(-(-positions // BLOCK), LEAST_TABLE)
    for count in reversed(SEQUENCES[: SEQUENCES.index(_next(SEQUENCES, min(sequences, SEQUENCES[-1]))) + 1]):
        if count > 1:
            for total in reversed(TOTAL):
                if SMALL <= total <= max(SMALL, filled_up(count * min(positions, LONG), 1)):
                    yield Shape(total, count, ALL, blocks)
            yield Shape(SMALL, count, NONE, blocks)
            continue
        for total, less in ((256, 64), (64, 16), (16, 4), (4, 0)):
            if less >= positions:
                continue
            yield Shape(total, 1, NONE if total <= 16 else LAST, blocks)
            if total >= 16 or positions <= 4:
                yield Shape(total, 1, ALL, blocks)


def packed(counts: Sequence[int]) -> list[list[int]]:
    """Which of many sequences go into one pass, by the number of their new positions.

    Args:
        counts: at most MOST_POSITIONS each.

    Returns:
        For each pass the places of its sequences in ``counts``, those with most positions first.
    """
    passes: list[list[int]] = []
    total = most = 0
    for at in sorted(range(len(counts)), key=lambda at: -counts[at]):
        count = counts[at]
        if passes and total + count <= MOST_POSITIONS and len(passes[-1]) < most:
            passes[-1].append(at)
            total += count
            continue
        passes.append([at])
        total = count
        most = 1 if count > LONG else SEQUENCES[-1]
    return passes


Seen = Mapping[str, Sequence[tuple[int, NDArray[np.int64]]]]
"""By kind of layers what the new positions of each sequence see, as :meth:`KVCache.blocks` has it."""

Later = Callable[[], list[int]]
"""Waits for the most likely ids behind positions of a sequence, which a device may be computing yet."""


def later(ids: Tensor, spans: Sequence[slice]) -> list[Later]:
    """The ids of each sequence, to be asked for when there is nothing else to be done.

    Args:
        ids: of all positions, int64 [n].
        spans: for each sequence of which of them.
    """
    fetched = Fetched(ids)
    return [partial(fetched.part, span) for span in spans]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same in all passes of one decoder over one pool.

    Attributes:
        recorder: of the decoder's device.
        decoder: its weights must not move.
        pool: where the caches are; a proxy, for the pool refers to its passes.
        choices: how many ids, from 0 on, may be chosen.
        ffn_widths: of the MatFormer sub-model, one per layer; None for the whole model.
        skip: whether the layers that share KV run over the positions alone that are wanted.
    """

    recorder: Recorder
    decoder: Decoder
    pool: KVPool
    choices: int
    ffn_widths: tuple[int, ...] | None
    skip: bool

    def choose(self, hidden: Tensor) -> Tensor:
        """The most likely ids behind final hidden states, [n, hidden] -> int64 [n]."""
        chosen = [
            self.decoder.logits(part)[:, : self.choices].argmax(-1)
            for part in torch.split(hidden, LOGITS_AT_ONCE)
        ]
        return torch.cat(chosen)


def lines_of(pool: KVPool, inputs: Sequence[Tensor], sequences: int) -> dict[str, Lines]:
    """Where each kind of layers writes and reads, from its three inputs in turn.

    Args:
        pool: whose kinds.
        inputs: for each kind where to write, where what is read begins, and the table.
        sequences: lines of a table.
    """
    return {
        kind: Lines(write, table.view(sequences, -1), first)
        for kind, write, first, table in zip(pool.kinds, inputs[::3], inputs[1::3], inputs[2::3], strict=True)
    }


def fill_lines(
    filled: Sequence[NDArray[np.int64]],
    seen: Seen,
    sequence: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> None:
    """Put in place what :func:`lines_of` reads.

    Args:
        filled: for each kind where to write, where what is read begins, and the table, which is zero.
        seen: what the new positions see.
        sequence: whose each new position is, [n].
        positions: which one of it, [n].
    """
    place, offset = np.divmod(positions, BLOCK)
    for (write, first, table), lines in zip(
        zip(filled[::3], filled[1::3], filled[2::3], strict=True), seen.values(), strict=True
    ):
        first[: len(lines)] = [begin for begin, _ in lines]
        blocks = table.reshape(len(first), -1)
        for row, (_, ids) in zip(blocks, lines, strict=False):
            row[: len(ids)] = ids
        write[: len(positions)] = blocks[sequence, place - first[sequence] // BLOCK] * BLOCK + offset
        write[len(positions) :] = SPARE_ROW


class FixedPass(Fixed):
    """A pass of one shape with its inputs.

    Args:
        setting: what it shares with others.
        shape: its own.
    """

    def __init__(self, setting: Setting, shape: Shape) -> None:
        config, weight = setting.decoder.config, setting.decoder.embed_tokens.weight
        total, sequences = shape.positions, shape.sequences
        self._queries = queries_of(config.num_attention_heads, config.num_key_value_heads)
        tiles = [most_tiles(total, sequences, self._queries)] * 3 if shape.tiled else []
        # Positions, the last of each sequence; tiles of several; and for each kind of layers where to write,
        # where what is read begins, and the table.
        sizes = [total, sequences, *tiles]
        for kind in setting.pool.kinds:
            sizes += [total, sequences, sequences * shape.width(kind, config)]
        super().__init__(setting.recorder, sizes)
        self._tiles, self._lines = slice(2, 2 + len(tiles)), slice(2 + len(tiles), None)
        for write in self.filled[self._lines][::3]:
            write[:] = SPARE_ROW
        self._setting, self._shape = setting, shape
        self._one_each = Tiles.of_one_each(sequences, weight.device) if shape.tiled else None
        layers, width = config.num_hidden_layers, config.hidden_size_per_layer_input
        self._embeddings = weight.new_zeros((1, total, config.hidden_size))
        self._rows = weight.new_zeros((1, total, layers, width))
        self._chosen = torch.zeros(
            (0, sequences, total)[shape.wanted], dtype=torch.int64, device=weight.device
        )

    def fill(
        self,
        caches: Sequence[KVCache],
        counts: Sequence[int],
        rows: Tensor,
        embeddings: Tensor,
        seen: Seen,
    ) -> None:
        """Put the inputs in place.

        Args:
            caches: with the new positions reserved.
            counts: how many these are in each.
            rows: of the per-layer embedding table, [1, n, layers, ple].
            embeddings: input embeddings with audio merged in, [1, n, hidden].
            seen: what the new positions see.
        """
        self.clear()
        many, total = len(caches), sum(counts)
        positions, last = self.filled[:2]
        ends = np.cumsum(counts)
        begins = ends - counts
        sequence = np.repeat(np.arange(many), counts)
        within = np.arange(total) - begins[sequence]
        positions[:total] = np.array([cache.length for cache in caches])[sequence] + within
        last[:many] = ends - 1
        # What fills up is another of the last query, so that it sees something.
        positions[total:] = positions[total - 1]
        if self._shape.tiled:
            fill_tiles(self.filled[self._tiles], counts, self._queries)
        fill_lines(self.filled[self._lines], seen, sequence, positions[:total])
        self._rows[:, :total].copy_(rows)
        self._embeddings[:, :total].copy_(embeddings)

    def chosen(self, counts: Sequence[int], keeps: Sequence[int]) -> list[Later]:
        """The most likely ids behind the last ``keeps`` positions of each sequence."""
        if self._shape.wanted == NONE:
            return [list for _ in counts]
        ends = range(1, len(counts) + 1) if self._shape.wanted == LAST else np.cumsum(counts).tolist()
        return later(self._chosen, [slice(end - keep, end) for end, keep in zip(ends, keeps, strict=True)])

    def compute(self) -> None:
        """See :class:`~pipeline.graphs.Fixed`."""
        setting, shape = self._setting, self._shape
        positions, last = self.inputs[:2]
        lines = lines_of(setting.pool, self.inputs[self._lines], shape.sequences)
        ahead = Ahead(positions, lines, tiles=Tiles(*self.inputs[self._tiles]) if shape.tiled else None)
        if shape.wanted == ALL or not setting.skip:
            ahead.wanted = ahead
        elif shape.wanted == LAST:
            ahead.wanted = Ahead(positions[last], lines, last, tiles=self._one_each)
        hidden = setting.decoder.next_hidden(
            self._rows, self._embeddings, setting.pool, ahead, setting.ffn_widths
        )[0]
        if shape.wanted == NONE:
            return
        if shape.wanted == LAST and not setting.skip:
            hidden = hidden[last]
        self._chosen.copy_(setting.choose(hidden))
