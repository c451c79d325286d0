"""The encoder for audio that is still arriving: the whole-sequence form, cut anywhere.

A soft encoding is returned as soon as every mel frame that it depends on is there, and is the one
that :class:`~pipeline.encoder.conformer.AudioEncoder` computes for the whole clip, up to float32
rounding. What a stream has to remember does not grow: at most ``kernel - 1`` frames before each
convolution, the sums of the cumulative group norms (in float64, so that hours add up), and per
block the keys and values of 12 frames and the convolution input of 4. As published, encoding k
needs the mel frames up to ``16 k + 6``, which is the first ``2560 k + 1472`` samples.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.batching import in_parts
from pipeline.encoder.conformer import AudioEncoder, BlockState
from pipeline.encoder.quick import QuickBlocks, suits
from pipeline.encoder.subsample import ConvState


@dataclass
class EncoderState:
    """Everything that the encoder remembers of one stream.

    Attributes:
        stem: state of the two convolution blocks.
        blocks: state of each conformer block.
        frames: conformer frames so far; decides which frames the reduction keeps.
    """

    stem: tuple[ConvState, ConvState]
    blocks: list[BlockState]
    frames: int = 0

    def clone(self) -> Self:
        """An independent copy, from which the stream can go on in another way."""
        return copy.deepcopy(self)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, with whatever storage they keep alive."""
        return sum(tensor.untyped_storage().nbytes() for tensor in _tensors(self))


class StreamingEncoder:
    """Encode any number of streams incrementally with the weights of one encoder.

    The table of relative positions of each block is computed once, so the encoder's weights must
    not change afterwards.

    Args:
        encoder: the whole-sequence encoder; its weights are shared, not copied.

    Attributes:
        quick: its blocks for small steps on the CPU; None where torch's operators are to be taken for all.
    """

    @torch.no_grad()
    def __init__(self, encoder: AudioEncoder) -> None:
        self.encoder = encoder
        self.positions: list[Tensor] = [
            block.attention.attn.relative_position_embedding().contiguous() for block in encoder.blocks
        ]
        self.quick = QuickBlocks(encoder, self.positions) if suits(encoder, 0) else None

    def initial_state(self) -> EncoderState:
        """State of a stream before its first frame."""
        return EncoderState(
            stem=self.encoder.subsample_conv_projection.initial_state(),
            blocks=[block.initial_state() for block in self.encoder.blocks],
        )

    def reset(self, state: EncoderState) -> None:
        """Make ``state`` that of a new stream."""
        fresh = self.initial_state()
        state.stem, state.blocks, state.frames = fresh.stem, fresh.blocks, fresh.frames

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
        return self._step(state, mel[None], last=False)[0]

    def push_many(self, states: Sequence[EncoderState], mels: Sequence[Tensor]) -> list[Tensor | Exception]:
        """Continue many streams, in one batch those that are alike.

        Alike are streams that get the same number of frames and are at the same phase of the encoder's
        strides. That are all in which each piece ends where an encoding becomes certain.

        Args:
            states: the streams' states, which this call advances.
            mels: the next log-mel frames of each, [T, F].

        Returns:
            For each the soft encodings that became certain, [n, hidden]; or an error if there was no memory
            for them even alone.

        Raises:
            ValueError: a ``mel`` has another shape.
        """
        groups: dict[tuple[object, ...], list[int]] = {}
        for at, (state, mel) in enumerate(zip(states, mels, strict=True)):
            groups.setdefault((mel.shape, *self._phase(state)), []).append(at)
        encodings: dict[int, Tensor | Exception] = {}
        for members in groups.values():
            encoded = in_parts(
                members, lambda some: self._push_alike([states[at] for at in some], [mels[at] for at in some])
            )
            encodings.update(zip(members, encoded, strict=True))
        return [encodings[at] for at in range(len(mels))]

    def _push_alike(self, states: Sequence[EncoderState], mels: Sequence[Tensor]) -> Sequence[Tensor]:
        together = _stack(states)
        encoded = self._step(together, torch.stack(list(mels)), last=False)
        _unstack(together, states)
        return encoded.unbind()

    def _phase(self, state: EncoderState) -> tuple[object, ...]:
        """What of a stream decides the shapes of its next step, and which keys exist."""
        config = self.encoder.config
        past = min(state.frames, config.conf_attention_context_left)
        tails = tuple(conv.tail.shape[2] for conv in state.stem)
        return (*tails, past, state.frames % config.conf_reduction_factor)

    def flush(self, state: EncoderState) -> Tensor:
        """End a stream as the whole-sequence form ends a clip, and reset its state.

        The zeros that the convolutions see behind the last frame are log-mel values louder than
        speech. Where it matters, push the frames of some 160 ms of silence first.

        Returns:
            The remaining soft encodings, [n, hidden] with n <= 1 as published.
        """
        tail = self._step(state, torch.zeros(1, 0, self.encoder.config.input_feat_size), last=True)
        self.reset(state)
        return tail[0]

    @torch.no_grad()
    def _step(self, state: EncoderState, mel: Tensor, *, last: bool) -> Tensor:
        bins = self.encoder.config.input_feat_size
        if mel.ndim != 3 or mel.shape[2] != bins:
            raise ValueError(f"mel must have the shape [frames, {bins}], got {list(mel.shape[1:])}")
        stem = self.encoder.subsample_conv_projection
        x = stem.step(mel.to(stem.input_proj_linear.weight.device), state.stem, last=last)
        seen, frames = state.frames, x.shape[1]
        if self.quick and frames and suits(self.encoder, x.shape[0] * frames):
            x = self.quick(x, state.blocks, seen)
        elif frames:
            mask = self.encoder.window_mask(frames, seen)
            for block, memory, positions in zip(
                self.encoder.blocks, state.blocks, self.positions, strict=True
            ):
                x = block(x, mask, memory, positions)
        state.frames += frames
        return self.encoder.reduce(x, seen)


def _stack(states: Sequence[Any]) -> Any:
    """One state of a batch from those of streams that are alike."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.cat(list(states))
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return replace(first, **{name: _stack([getattr(state, name) for state in states]) for name in names})
    if isinstance(first, (tuple, list)):
        return type(first)(_stack(items) for items in zip(*states, strict=True))
    return first


def _unstack(together: EncoderState, states: Sequence[EncoderState]) -> None:
    """Give each stream of a batch its own state, without the storage of the others."""
    new = [torch.split(tensor, 1) for tensor in _tensors(together)]
    old = [list(_tensors(state)) for state in states]
    if all(tensor.shape == rows[0].shape for tensor, rows in zip(old[0], new, strict=True)):
        # In place and all of one type at once: on a GPU a copy of each would cost more than the encoder.
        copies: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for at, tensors in enumerate(old):
            for tensor, rows in zip(tensors, new, strict=True):
                into, source = copies.setdefault(tensor.dtype, ([], []))
                into.append(tensor)
                source.append(rows[at])
        for into, source in copies.values():
            torch._foreach_copy_(into, source)
    else:
        for at, state in enumerate(states):
            own = iter([rows[at].clone() for rows in new])
            state.stem, state.blocks = _refilled(state.stem, own), _refilled(state.blocks, own)
    for state in states:
        state.frames = together.frames


def _refilled(state: Any, tensors: Iterator[Tensor]) -> Any:
    """The same structure with other tensors."""
    if isinstance(state, Tensor):
        return next(tensors)
    if is_dataclass(state) and not isinstance(state, type):
        return replace(state, **{f.name: _refilled(getattr(state, f.name), tensors) for f in fields(state)})
    if isinstance(state, (tuple, list)):
        return type(state)(_refilled(item, tensors) for item in state)
    return state


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif is_dataclass(state):
        for field in fields(state):
            yield from _tensors(getattr(state, field.name))
    elif isinstance(state, (tuple, list)):
        for item in state:
            yield from _tensors(item)
