"""The encoder for audio that is still arriving: the whole-sequence form, cut anywhere.

A soft encoding is returned as soon as every mel frame that it depends on is there, and is the one
that :class:`~pipeline.encoder.conformer.AudioEncoder` computes for the whole clip, up to float32
rounding. What a stream has to remember does not grow: at most ``kernel - 1`` frames before each
convolution, the sums of the cumulative group norms (in float64, so that hours add up), and per
block the keys and values of 12 frames and the convolution input of 4. As published, encoding k
needs the mel frames up to ``16 k + 6``, which is the first ``2560 k + 1472`` samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Self

import torch
from torch import Tensor

from pipeline.batching import in_parts
from pipeline.encoder.bank import LEAST_ROWS, Bank, Row, refilled, stacked, tensors
from pipeline.encoder.conformer import AudioEncoder, BlockState
from pipeline.encoder.fixed import FixedEncoderSteps, Setting
from pipeline.encoder.quick import QuickBlocks, suits
from pipeline.encoder.subsample import ConvState
from pipeline.graphs import Recorder

ROWS_ON_GPU = 512
"""Rows to begin with there, of the bank that steps are recorded over: when they become more, that is anew."""


@dataclass
class Memory:
    """What the encoder remembers of streams that are alike.

    Attributes:
        stem: state of the two convolution blocks.
        blocks: state of each conformer block.
    """

    stem: tuple[ConvState, ConvState]
    blocks: list[BlockState]


@dataclass(eq=False)
class EncoderState:
    """Everything that the encoder remembers of one stream.

    Attributes:
        own: its memory, which others may share and nobody changes; None while that is in a bank.
        frames: conformer frames so far; decides which frames the reduction keeps.
        row: where in a bank it is.
    """

    own: Memory | None
    frames: int = 0
    row: Row | None = None

    def read(self) -> Memory:
        """A copy of its memory."""
        if self.own is not None:
            own: Memory = refilled(self.own, (tensor.clone() for tensor in tensors(self.own)))
            return own
        assert self.row is not None
        memory: Memory = self.row.bank.read([self.row])
        return memory

    def keep(self, memory: Memory) -> None:
        """Have it hold this memory itself."""
        self.own, self.row = memory, None

    def clone(self) -> Self:
        """Another that goes on from here in its own way; what is remembered so far is there once."""
        return type(self)(self.own, self.frames, self.row)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, with whatever storage they keep alive."""
        if self.row is not None:
            return self.row.bank.row_bytes
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors(self.own))


class StreamingEncoder:
    """Encode any number of streams incrementally with the weights of one encoder.

    The table of relative positions of each block is computed once, so the encoder's weights must
    not change afterwards.

    Args:
        encoder: the whole-sequence encoder; its weights are shared, not copied.

    Attributes:
        quick: its blocks for small steps on the CPU; None where torch's operators are to be taken for all.
        fixed: its usual steps in fixed shapes, as a GPU wants them; None where they are not to be taken.
    """

    @torch.no_grad()
    def __init__(self, encoder: AudioEncoder) -> None:
        self.encoder = encoder
        self.positions: list[Tensor] = [
            block.attention.attn.relative_position_embedding().contiguous() for block in encoder.blocks
        ]
        self.quick = QuickBlocks(encoder, self.positions) if suits(encoder, 0) else None
        # Where the memory of streams is between their steps, by its shapes.
        self._banks: dict[tuple[torch.Size, ...], Bank[Memory]] = {}
        self._lock = Lock()
        self._new = Memory(
            encoder.subsample_conv_projection.initial_state(),
            [block.initial_state() for block in encoder.blocks],
        )
        self._device = encoder.subsample_conv_projection.input_proj_linear.weight.device
        self.fixed = self.in_fixed_shapes() if self._device.type == "cuda" else None

    @torch.inference_mode()
    def in_fixed_shapes(self) -> FixedEncoderSteps:
        """The usual steps of its streams, for :attr:`fixed`."""
        config, memory = self.encoder.config, self.initial_state().read()
        silence = torch.zeros(1, self.encoder.first_frames, config.input_feat_size)
        self._step(memory, silence, 0, last=False)

        def step(memory: Memory, mel: Tensor, phase: int, seen: Tensor) -> Tensor:
            return self._step(memory, mel, phase, last=False, each=seen)[0]

        bank = self._bank(memory, ROWS_ON_GPU if self._device.type == "cuda" else LEAST_ROWS)
        return FixedEncoderSteps(Setting(Recorder(self._device), self.encoder, step, bank, self._new))

    @torch.inference_mode()
    def prepare(self, streams: int) -> None:
        """Have a GPU record what is usual, before a speaker would wait for it; elsewhere nothing.

        Args:
            streams: how many there will be at a time.
        """
        if self.fixed:
            with self._lock:
                self.fixed.prepare(streams)

    def initial_state(self) -> EncoderState:
        """State of a stream before its first frame."""
        return EncoderState(self._new)

    def reset(self, state: EncoderState) -> None:
        """Make ``state`` that of a new stream."""
        state.keep(self._new)
        state.frames = 0

    @torch.inference_mode()
    def push(self, state: EncoderState, mel: Tensor) -> Tensor:
        """Continue a stream.

        Args:
            state: the stream's state, which this call advances.
            mel: the next log-mel frames, [T, F] with T >= 0.

        Returns:
            The soft encodings that became certain, [n, hidden] with n >= 0.

        Raises:
            ValueError: ``mel`` has another shape.
        """
        return self._push_alone(state, mel, last=False)

    @torch.inference_mode()
    def push_many(self, states: Sequence[EncoderState], mels: Sequence[Tensor]) -> list[Tensor | Exception]:
        """Continue many streams, in one batch those that are alike.

        Alike are streams that get the same number of frames and are at the same phase of the encoder's
        strides. That are all in which each piece ends where an encoding becomes certain, but for those that
        have just begun.

        Args:
            states: the streams' states, which this call advances.
            mels: the next log-mel frames of each, [T, F].

        Returns:
            For each the soft encodings that became certain, [n, hidden]; or an error if there was no memory
            for them even alone.

        Raises:
            ValueError: a ``mel`` has another shape.
        """
        parts = [self._parted(state, mel) for state, mel in zip(states, mels, strict=True)]
        encodings: list[list[Tensor]] = [[] for _ in states]
        failed: dict[int, Exception] = {}
        for number in range(max(map(len, parts), default=0)):
            groups: dict[tuple[object, ...], list[int]] = {}
            for at, (state, own) in enumerate(zip(states, parts, strict=True)):
                if number < len(own) and at not in failed:
                    groups.setdefault((own[number].shape, *self._phase(state)), []).append(at)
            for members in groups.values():
                encoded = in_parts(
                    members,
                    lambda some, number=number: self._push_alike(  # type: ignore[misc]
                        [states[at] for at in some], [parts[at][number] for at in some]
                    ),
                )
                for at, one in zip(members, encoded, strict=True):
                    if isinstance(one, Exception):
                        failed[at] = one
                    else:
                        encodings[at].append(one)
        return [
            failed[at] if at in failed else torch.cat(own) if len(own) > 1 else own[0]
            for at, own in enumerate(encodings)
        ]

    def _parted(self, state: EncoderState, mel: Tensor) -> Sequence[Tensor]:
        """A piece as the usual steps that it can be taken in, or as it is."""
        if not self._could_be_usual(state, mel):
            return [mel]
        assert self.fixed is not None
        return torch.split(mel, self.fixed.parted(state.row, state.frames, len(mel)))

    def _push_alone(self, state: EncoderState, mel: Tensor, *, last: bool) -> Tensor:
        memory = state.read()
        encoded, frames = self._step(memory, mel[None], state.frames, last=last)
        state.keep(memory)
        state.frames += frames
        return encoded[0]

    def _push_alike(self, states: Sequence[EncoderState], mels: Sequence[Tensor]) -> Sequence[Tensor]:
        if self._is_usual(states[0], mels[0]):
            return self._push_usual(states, mels)
        memory = self._gather(states)
        # Which frames the reduction keeps is the same for all of them; which keys there are may differ.
        seen = [self._past(state) for state in states]
        each = torch.tensor(seen, device=self._device) if len(set(seen)) > 1 else None
        mel = torch.stack(list(mels))
        encoded, frames = self._step(memory, mel, states[0].frames, last=False, each=each)
        self._put_back(states, memory)
        for state in states:
            state.frames += frames
        return encoded.unbind()

    def _could_be_usual(self, state: EncoderState, mel: Tensor) -> bool:
        bins = self.encoder.config.input_feat_size
        known = state.row is not None or state.own is self._new
        return self.fixed is not None and known and mel.shape[1:] == (bins,)

    def _is_usual(self, state: EncoderState, mel: Tensor) -> bool:
        if not self._could_be_usual(state, mel):
            return False
        assert self.fixed is not None
        return self.fixed.suits(state.row, state.frames, len(mel))

    def _push_usual(self, states: Sequence[EncoderState], mels: Sequence[Tensor]) -> Sequence[Tensor]:
        assert self.fixed is not None
        rows = [state.row for state in states if state.row is not None]
        with self._lock:
            encoded, written = self.fixed.run(rows or None, [self._past(state) for state in states], mels)
        # Pieces end where an encoding becomes certain; the first encoding of a stream needs one frame alone.
        factor = self.encoder.config.conf_reduction_factor
        frames = (len(encoded[0]) - 1) * factor + (factor if rows else 1)
        for state, row in zip(states, written, strict=True):
            state.own, state.row = None, row
            state.frames += frames
        return encoded

    def _gather(self, states: Sequence[EncoderState]) -> Memory:
        """One memory of streams that are alike."""
        rows = [state.row for state in states if state.row is not None]
        with self._lock:
            if len(rows) == len(states) and all(row.bank is rows[0].bank for row in rows):
                memory: Memory = rows[0].bank.read(rows)
                return memory
            return stacked([state.read() for state in states])

    def _put_back(self, states: Sequence[EncoderState], memory: Memory) -> None:
        """Have each stream's part of a memory in a bank."""
        with self._lock:
            bank = self._bank(memory)
            rows = bank.take(len(states))
            bank.write(rows, memory)
            for state, row in zip(states, rows, strict=True):
                state.own, state.row = None, row

    def _bank(self, memory: Memory, rows: int = LEAST_ROWS) -> Bank[Memory]:
        """Where memory of these shapes lies; one that is new begins with so many rows."""
        shapes = tuple(tensor.shape[1:] for tensor in tensors(memory))
        bank = self._banks.get(shapes)
        if bank is None:
            bank = self._banks[shapes] = Bank(memory, rows)
        return bank

    def _phase(self, state: EncoderState) -> tuple[object, ...]:
        """What of a stream decides the shapes of its next step, and for quick blocks which keys exist."""
        place: object = state.row and state.row.bank
        if state.own is not None:
            new = state.own is self._new
            place = (new, *(conv.tail.shape[2] for conv in state.own.stem))
        past = self._past(state) if self.quick else None
        return (place, past, state.frames % self.encoder.config.conf_reduction_factor)

    def _past(self, state: EncoderState) -> int:
        """Frames of it so far, as many as attention looks back at."""
        return min(state.frames, self.encoder.config.conf_attention_context_left)

    @torch.inference_mode()
    def flush(self, state: EncoderState) -> Tensor:
        """End a stream as the whole-sequence form ends a clip, and reset its state.

        The zeros that the convolutions see behind the last frame are log-mel values louder than
        speech. Where it matters, push the frames of some 160 ms of silence first.

        Returns:
            The remaining soft encodings, [n, hidden] with n <= 1 as published.
        """
        tail = self._push_alone(state, torch.zeros(0, self.encoder.config.input_feat_size), last=True)
        self.reset(state)
        return tail

    def _step(
        self, memory: Memory, mel: Tensor, seen: int, *, last: bool, each: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Soft encodings and the number of conformer frames; advances the memory.

        Args:
            memory: of streams that are alike.
            mel: log-mel frames, [B, T, F].
            seen: conformer frames before these, or as many of them as say which ones the reduction keeps.
            last: whether these are the last.
            each: where streams have seen different numbers of frames, those of each, int64 [B].
        """
        bins = self.encoder.config.input_feat_size
        if mel.ndim != 3 or mel.shape[2] != bins:
            raise ValueError(f"mel must have the shape [frames, {bins}], got {list(mel.shape[1:])}")
        stem = self.encoder.subsample_conv_projection
        x = stem.step(mel.to(stem.input_proj_linear.weight.device), memory.stem, last=last)
        frames = x.shape[1]
        if self.quick and each is None and frames and suits(self.encoder, x.shape[0] * frames):
            x = self.quick(x, memory.blocks, seen)
        elif frames:
            mask = self.encoder.window_mask(frames, seen if each is None else each)
            for block, state, positions in zip(
                self.encoder.blocks, memory.blocks, self.positions, strict=True
            ):
                x = block(x, mask, state, positions)
        return self.encoder.reduce(x, seen), frames
