"""The usual steps of many streams in fixed shapes, which a GPU records as graphs and replays.

A step is a thousand kernels, and starting them takes some ten times longer than they run. Usual are the first
piece of an utterance and the pieces of one or two soft encodings that continue it: behind the first, all
streams are at the same phase of the encoder's strides whenever a piece has ended, and their memory is in one
bank. Batches are filled up to one of a few sizes by what reads and writes the bank's spare row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.encoder.bank import SPARE, Bank, Row, expanded
from pipeline.encoder.conformer import AudioEncoder
from pipeline.graphs import Fixed, Recorder

BATCHES = (1, 8, 16, 32, 64, 128, 256, 512)
"""Sizes of batches."""

MOST_LONG = 64
"""Largest batch of pieces that are longer, which are seldom many at once."""

BEGINNING = (3, 4, 5)
"""Soft encodings of an utterance's first piece: what the gate holds back until it knows that it is speech."""

GOING_ON = (1, 2, 4)
"""Soft encodings of the pieces behind it: of a client's piece, of a pause's end, and of what the gate held
back for longer."""

FREQUENT = 2
"""Soft encodings up to which many streams go on at once."""

LONGEST = 16
"""Most soft encodings that are put together from these; more of them keep a GPU busy by themselves."""

Step = Callable[[Any, Tensor, int, Tensor], Tensor]
"""Of a memory, mel frames [B, T, F], the phase, and frames that each stream has seen: soft encodings."""


class Shape(NamedTuple):
    """The shape of a step.

    Attributes:
        batch: streams.
        begins: whether the piece is their first.
        encodings: of each.
    """

    batch: int
    begins: bool
    encodings: int


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same in all steps.

    Attributes:
        recorder: of the encoder's device.
        encoder: its weights must not move.
        step: its step, which advances the memory.
        bank: of streams behind their first piece.
        new: memory of one stream before it.
    """

    recorder: Recorder
    encoder: AudioEncoder
    step: Step
    bank: Bank[Any]
    new: Any

    @property
    def phase(self) -> int:
        """Frames of streams behind their first piece, modulo the reduction."""
        return 1 % self.encoder.config.conf_reduction_factor

    def frames(self, begins: bool, encodings: int) -> int:
        """Mel frames of a piece."""
        if begins:
            return self.encoder.first_frames + (encodings - 1) * self.encoder.token_stride
        return encodings * self.encoder.token_stride

    def encodings(self, begins: bool, frames: int) -> int | None:
        """Of a piece of so many mel frames; None where it ends between two."""
        stride = self.encoder.token_stride
        whole = frames - self.encoder.first_frames + stride if begins else frames
        return None if whole <= 0 or whole % stride else whole // stride


class FixedEncoderSteps:
    """Steps of one encoder.

    Args:
        setting: what they share.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._usual = {
            (begins, setting.frames(begins, encodings)): encodings
            for begins, counts in ((True, BEGINNING), (False, GOING_ON))
            for encodings in counts
        }
        self._steps: dict[Shape, _Step] = {}
        self._rows = 0

    @property
    def shapes(self) -> int:
        """How many there are so far; more of them later were not prepared for."""
        return len(self._steps)

    def prepare(self, streams: int) -> None:
        """Record now what would otherwise be recorded when it first comes.

        Args:
            streams: how many there will be at a time; there is room for the memory of as many.
        """
        largest = _batch(streams)
        self._setting.bank.reserve(streams + largest)
        self._follow_bank()
        # From large to small, so that what a small one needs finds room where a large one was.
        for batch in reversed(BATCHES[: BATCHES.index(largest) + 1]):
            for (begins, _), encodings in self._usual.items():
                if batch <= _largest(begins, encodings):
                    self._step(Shape(batch, begins, encodings)).run()

    def suits(self, row: Row | None, seen: int, frames: int) -> bool:
        """Whether a stream's step is a usual one; arguments as in :meth:`parted`."""
        return (row is None, frames) in self._usual and self._in_step(row, seen)

    def parted(self, row: Row | None, seen: int, frames: int) -> list[int]:
        """Frames of the usual steps that a piece can be taken in; where there are none, all of its frames.

        Args:
            row: where the stream's memory is; None before its first piece.
            seen: conformer frames of it so far.
            frames: mel frames of the piece.
        """
        setting = self._setting
        encodings = setting.encodings(row is None, frames)
        if encodings is None or encodings > LONGEST or not self._in_step(row, seen):
            return [frames]
        sizes = []
        if row is None:
            begun = max((size for size in BEGINNING if size <= encodings), default=0)
            if not begun:
                return [frames]
            sizes.append(setting.frames(True, begun))
            encodings -= begun
        for size in reversed(GOING_ON):
            count, encodings = divmod(encodings, size)
            sizes += [setting.frames(False, size)] * count
        return sizes

    def _in_step(self, row: Row | None, seen: int) -> bool:
        """Whether a stream is where usual steps begin or go on."""
        setting = self._setting
        return row is None or (
            row.bank is setting.bank and seen % setting.encoder.config.conf_reduction_factor == setting.phase
        )

    def run(
        self, rows: Sequence[Row] | None, seen: Sequence[int], mels: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Row]]:
        """Continue streams whose steps are usual and of one kind.

        Args:
            rows: where the memory of each is, which stays as it is; None before their first pieces.
            seen: conformer frames of each so far.
            mels: log-mel frames of each, [T, F].

        Returns:
            Soft encodings of each, [n, hidden], and where their memory is now.
        """
        encoded: list[Tensor] = []
        begins = rows is None
        most = _largest(begins, self._usual[begins, len(mels[0])])
        written = self._setting.bank.take(len(mels))
        self._follow_bank()
        for at in range(0, len(mels), most):
            part = slice(at, at + most)
            count = len(mels[part])
            step = self._step(Shape(_batch(count), begins, self._usual[begins, len(mels[at])]))
            step.fill(rows and rows[part], written[part], seen[part], mels[part])
            step.run()
            encoded += step.encoded(count)
        return encoded, written

    def _follow_bank(self) -> None:
        """Forget what was recorded over rows that have moved."""
        if self._rows != self._setting.bank.rows:
            self._rows = self._setting.bank.rows
            self._steps.clear()
            self._setting.recorder.begin_anew()

    def _step(self, shape: Shape) -> _Step:
        step = self._steps.get(shape)
        if step is None:
            step = self._steps[shape] = _Step(self._setting, shape)
        return step


class _Step(Fixed):
    """A step of one shape with its inputs: rows to read, rows to write, frames seen."""

    def __init__(self, setting: Setting, shape: Shape) -> None:
        super().__init__(setting.recorder, [shape.batch] * 3)
        self._setting, self._shape = setting, shape
        config = setting.encoder.config
        weight = setting.encoder.subsample_conv_projection.input_proj_linear.weight
        frames = setting.frames(shape.begins, shape.encodings)
        # Like the other inputs: what is copied from pinned memory does not wait for the step before.
        self._heard = torch.zeros(
            shape.batch, frames, config.input_feat_size, pin_memory=setting.recorder.on_gpu
        )
        self._mel = self._heard.to(weight.device, copy=True)
        self._encoded = weight.new_zeros(shape.batch, shape.encodings, config.hidden_size)

    def fill(
        self,
        rows: Sequence[Row] | None,
        written: Sequence[Row],
        seen: Sequence[int],
        mels: Sequence[Tensor],
    ) -> None:
        """Put the inputs of a batch in place."""
        self.clear()
        count = len(mels)
        for part in self.filled[:2]:
            part[:] = SPARE
        if rows is not None:
            self.filled[0][:count] = [row.index for row in rows]
        self.filled[1][:count] = [row.index for row in written]
        self.filled[2][:count] = seen
        self._heard[:count].copy_(torch.stack(list(mels)))
        self._mel[:count].copy_(self._heard[:count], non_blocking=True)

    def encoded(self, count: int) -> Iterator[Tensor]:
        """Soft encodings of each stream of a batch, copied: the next one overwrites them."""
        return iter(self._encoded[:count].clone().unbind())

    def compute(self) -> None:
        """See :class:`~pipeline.graphs.Fixed`."""
        setting, (read, write, seen) = self._setting, self.inputs
        begins = self._shape.begins
        memory = expanded(setting.new, self._shape.batch) if begins else setting.bank.read_at(read)
        self._encoded.copy_(setting.step(memory, self._mel, 0 if begins else setting.phase, seen))
        setting.bank.write_at(write, memory)


def _largest(begins: bool, encodings: int) -> int:
    """The largest batch of such pieces."""
    return MOST_LONG if begins or encodings > FREQUENT else BATCHES[-1]


def _batch(count: int) -> int:
    """The smallest size for so many streams, or the largest that there is."""
    return next((batch for batch in BATCHES if batch >= count), BATCHES[-1])
