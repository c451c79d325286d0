"""Soft tokens of audio that is still arriving, of one stream or of many in one batch."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.audio.mel import MelFrontend
from pipeline.batching import in_parts, run_alone
from pipeline.encoder.embedder import MultimodalEmbedder
from pipeline.encoder.streaming import EncoderState, StreamingEncoder
from pipeline.errors import AudioError


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Log-mel frames [T, F] that continue a stream; the answer are its soft tokens [n, text_hidden]."""

    state: EncoderState
    frames: NDArray[np.float32]


Encoding = Generator[Piece, Tensor, Tensor]
"""Yields pieces, receives their soft tokens, and returns those of all."""


class Ears:
    """The encoder and the embedder behind it, for any number of streams.

    Args:
        encoder: of the model.
        embedder: of the model.
    """

    def __init__(self, encoder: StreamingEncoder, embedder: MultimodalEmbedder) -> None:
        self.encoder = encoder
        self.embedder = embedder

    def prepare(self, streams: int) -> None:
        """Have a GPU record what so many streams will ask for, before a speaker would wait for it."""
        self.encoder.prepare(streams)

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> list[Tensor | Exception]:
        """Continue streams, those with as many frames as others in one batch with them.

        Returns:
            Soft tokens of each, float32 [n, text_hidden], on the CPU; or an error if there was no memory for
            them even alone.
        """
        mels = [torch.from_numpy(piece.frames) for piece in pieces]
        answers = self.encoder.push_many([piece.state for piece in pieces], mels)
        encodings = [answer for answer in answers if isinstance(answer, Tensor)]
        embedded = iter(in_parts(encodings, self._embed) if encodings else ())
        return [next(embedded) if isinstance(answer, Tensor) else answer for answer in answers]

    def _embed(self, encodings: Sequence[Tensor]) -> Sequence[Tensor]:
        # In one copy: one for each stream would wait for the device each time.
        tokens: Tensor = self.embedder(torch.cat(list(encodings))).float().cpu()
        return torch.split(tokens, [len(encoded) for encoded in encodings])

    @torch.inference_mode()
    def end(self, state: EncoderState, frames: NDArray[np.float32]) -> Tensor:
        """End a stream with its last frames; returns what soft tokens there are still, and resets it."""
        encodings = self.encoder.push(state, torch.from_numpy(frames))
        tokens: Tensor = self.embedder(torch.cat([encodings, self.encoder.flush(state)]))
        return tokens.float().cpu()


class AudioStream:
    """Soft tokens of audio that is still arriving.

    What :meth:`push` and :meth:`flush` return is, concatenated, what
    :meth:`~pipeline.model.Gemma3n.encode_audio` returns for all of the audio, up to float32 rounding and
    however it was cut.

    Args:
        ears: whose encoder to use.
    """

    def __init__(self, ears: Ears) -> None:
        self._ears = ears
        self._frontend = MelFrontend()
        self._state = ears.encoder.initial_state()
        # Frames that the encoder has been given, and those that wait to be a whole piece.
        self._given = 0
        self._frames = np.empty((0, ears.encoder.encoder.config.input_feat_size), np.float32)

    def push(self, waveform: NDArray[np.float32] | Tensor) -> Tensor:
        """Add samples.

        Args:
            waveform: float32 [samples] at 16 kHz, any number of them.

        Returns:
            The soft tokens that became certain, float32 [n, text_hidden].

        Raises:
            AudioError: the waveform has another shape.
        """
        return run_alone(self.steps(waveform), self._ears.encode)

    def steps(self, waveform: NDArray[np.float32] | Tensor) -> Encoding:
        """The same, with the work for the encoder left to the caller.

        Frames go in in pieces that end where a soft token becomes certain, so that streams are in step with
        each other.
        """
        frames = np.concatenate([self._frames, self._frontend.push(as_samples(waveform))])
        encoder = self._ears.encoder.encoder
        tokens = (self._given + len(frames) - encoder.first_frames) // encoder.token_stride + 1
        count = encoder.first_frames + (tokens - 1) * encoder.token_stride - self._given
        if tokens < 1 or not count:
            self._frames = frames
            return torch.empty(0, self._ears.embedder.embedding_projection.weight.shape[0])
        self._given += count
        self._frames = frames[count:].copy()
        return (yield Piece(self._state, frames[:count]))

    def fork(self) -> AudioStream:
        """Another stream that has heard the same so far and goes on by itself."""
        other = copy.copy(self)
        other._frontend, other._state = copy.deepcopy(self._frontend), self._state.clone()
        return other

    def flush(self) -> Tensor:
        """End the audio; afterwards the stream is as new.

        Returns:
            The remaining soft tokens, float32 [n, text_hidden].
        """
        frames = np.concatenate([self._frames, self._frontend.flush()])
        self._given, self._frames = 0, self._frames[:0]
        return self._ears.end(self._state, frames)


def as_samples(waveform: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
    """A waveform as float32 [samples].

    Raises:
        AudioError: it has another shape.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1:
        raise AudioError(f"a waveform must have the shape [samples], got {list(samples.shape)}")
    return samples
