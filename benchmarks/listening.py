"""What streams hear, prepared beforehand: the gate's decisions and the frames that go to the encoder.

One process cannot listen to hundreds of streams beside its accelerator: gate and log-mel spectrogram take
some milliseconds of a core for each second of a stream. In a service this is spread over processes; where
:mod:`benchmarks.streams` asks what an accelerator carries, it is done before the clock starts, and what it
costs is told for itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.audio_stream import Piece
from pipeline.config import SAMPLE_RATE, StreamConfig
from pipeline.encoder.streaming import EncoderState
from pipeline.model import Gemma3n
from pipeline.speech import Encoded, SpeechEncoder, SpeechEvent, SpeechHeard, SpeechPaused


@dataclass(frozen=True)
class Told:
    """What came of one piece of a client's audio.

    Attributes:
        work: frames for the encoder, [T, 128] each, and whether they go on with the utterance, begin one, or
            branch off it for what a pause would end it with.
        events: of it, without soft tokens.
    """

    work: list[tuple[Literal["on", "new", "branch"], NDArray[np.float32]]]
    events: list[SpeechEvent]


@dataclass(frozen=True)
class Heard:
    """A stream's audio, as its pieces were heard.

    Attributes:
        told: by piece.
        work_s: seconds of a core that it took.
    """

    told: list[Told]
    work_s: float


def listen(model: Gemma3n, config: StreamConfig, audio: NDArray[np.float32], piece: int) -> Heard:
    """Gate a stream's audio and compute its log-mel frames.

    Args:
        model: for the shapes alone.
        config: of the stream; its audio is float32.
        audio: [samples] at 16 kHz.
        piece: samples of a client's message.
    """
    nothing = torch.zeros(1, model.config.text.hidden_size)
    encoder, told, began = SpeechEncoder(model, config), [], time.process_time()
    state: EncoderState | None = None
    for at in range(0, len(audio), piece):
        work: list[tuple[Literal["on", "new", "branch"], NDArray[np.float32]]] = []
        steps = encoder.steps(audio[at : at + piece].astype("<f4").tobytes())
        try:
            asked = next(steps)
            while True:
                if asked.state is state:
                    work.append(("on", asked.frames))
                elif asked.state is encoder._audio._state:
                    state = asked.state
                    work.append(("new", asked.frames))
                else:
                    work.append(("branch", asked.frames))
                asked = steps.send(nothing)
        except StopIteration as done:
            told.append(Told(work, done.value))
    return Heard(told, time.process_time() - began)


class Replayed:
    """Takes a :class:`~pipeline.speech.SpeechEncoder`'s place for a stream that was heard beforehand."""

    def __init__(self, model: Gemma3n, heard: Heard) -> None:
        self._encoder = model.ears.encoder
        self._told = iter(heard.told)
        self._state = self._encoder.initial_state()

    def steps(self, data: bytes) -> Encoded:
        """See there; ``data`` counts as the next piece, whatever is in it."""
        told = next(self._told)
        tokens: list[NDArray[np.float32]] = []
        for kind, frames in told.work:
            if kind == "new":
                self._state = self._encoder.initial_state()
            state = self._state.clone() if kind == "branch" else self._state
            answer = yield Piece(state, frames)
            tokens.append(answer.numpy())
        return list(_with_tokens(told.events, iter(tokens)))


def _with_tokens(
    events: Sequence[SpeechEvent], tokens: Iterator[NDArray[np.float32]]
) -> Iterator[SpeechEvent]:
    for event in events:
        if isinstance(event, (SpeechHeard, SpeechPaused)) and len(event.tokens):
            yield replace(event, tokens=next(tokens))
        else:
            yield event


def front_end_ms(heard: Sequence[Heard], samples: int) -> float:
    """Milliseconds of a core for a second of a stream, of streams of so many samples."""
    return 1e3 * sum(one.work_s for one in heard) / (len(heard) * samples / SAMPLE_RATE)
