"""The front half of one stream: audio bytes in, gated and encoded speech out.

What leaves here is all that the back half (:mod:`pipeline.translation`) needs, and is small: one soft token
per 160 ms of speech, and nothing at all for silence.
"""

from __future__ import annotations

import pickle
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.audio.pcm import PcmDecoder
from pipeline.audio.resample import Resampler
from pipeline.audio_stream import Piece
from pipeline.batching import run_alone
from pipeline.chunks import gate
from pipeline.config import SAMPLE_RATE, StreamConfig
from pipeline.model import Gemma3n

TAIL = 2_560
"""Zeros behind the last sample of an utterance: one soft token more, which sees all that the last left out.

Up to 100 ms of trailing audio would otherwise be in no token. The reference's own padding, zeros in the
log-mel domain, is louder than speech; training ends utterances as it is done here.
"""

SILENCE_INTERVAL = 1.0
"""Seconds of silence after which it is told how far the audio is done with."""


CHECKPOINT_INTERVAL = 5.0
"""Seconds of silence after which there is a new checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStarted:
    """An utterance begins at ``time``, and the speech in it ``margin`` later.

    Times are seconds of the stream. ``audio_time`` is, in each of these events, how much of the stream had
    been heard by then.
    """

    audio_time: float
    time: float
    margin: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeechHeard:
    """The next soft tokens of the utterance, float32 ``[n, text_hidden]``; they cover it up to ``time``."""

    audio_time: float
    time: float
    tokens: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeechPaused:
    """Nothing is said. If the utterance ends here, at ``time``, these soft tokens are its last."""

    audio_time: float
    time: float
    tokens: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechEnded:
    """The utterance ends at ``time``, ``margin`` behind the speech in it.

    Its last soft tokens are those of the pause that it is in, where one was told.
    """

    audio_time: float
    time: float
    margin: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What lies before ``time`` and in no utterance so far will be in none."""

    audio_time: float
    time: float


SpeechEvent: TypeAlias = SpeechStarted | SpeechHeard | SpeechPaused | SpeechEnded | Silence


Encoded = Generator[Piece, Tensor, list[SpeechEvent]]
"""Yields work for the encoder, receives soft tokens, and returns speech events."""


class SpeechEncoder:
    """Decodes, resamples, gates and encodes the audio of one stream.

    Which events come, and the soft tokens in them, do not depend on how the audio was cut; only how many
    :class:`SpeechHeard` an utterance's tokens come in does, and when silence and pauses that end are told.

    Args:
        model: whose encoder to use.
        config: the stream's.
    """

    def __init__(self, model: Gemma3n, config: StreamConfig) -> None:
        self._pcm = PcmDecoder(config.audio)
        self._resampler = Resampler(config.audio.sample_rate)
        self._gate = gate.SpeechGate(config.gate)
        # Encoder of the utterance that is open; between two of them it is as new.
        self._model = model
        self._audio = model.audio_stream()
        # Whether the last tokens of the utterance that is open have been told, should it end here.
        self._paused = False
        # 16 kHz samples that have been through the gate, and before which silence has been told.
        self._heard = 0
        self._told = 0
        # What the gate has let through, since the last call began or, if that is later, the last utterance
        # ended; None when the utterance that is open began in an earlier call. It must be encoded again by
        # whoever goes on from a checkpoint.
        self._opening: list[gate.GateItem] | None = []
        self._owed: list[gate.GateItem] = []
        # Whether an utterance is open, and from which sample on a checkpoint is due.
        self._open = False
        self._due = round(CHECKPOINT_INTERVAL * SAMPLE_RATE)

    @property
    def audio_time(self) -> float:
        """Seconds of audio that have been through the gate."""
        return self._heard / SAMPLE_RATE

    def push(self, data: bytes) -> list[SpeechEvent]:
        """Take audio bytes in the stream's format, cut anywhere; returns what became certain.

        Raises:
            AudioError: float samples that are not audio.
        """
        return run_alone(self.steps(data), self._model.ears.encode)

    def steps(self, data: bytes) -> Encoded:
        """The same, with the work for the encoder left to the caller."""
        yield from self._begin()
        samples = self._resampler.push(self._pcm.push(data))
        return (yield from self._listen(samples))

    def flush(self) -> list[SpeechEvent]:
        """End the utterance that is open, if any; the stream may go on."""
        return run_alone(self.flush_steps(), self._model.ears.encode)

    def flush_steps(self) -> Encoded:
        """The same, with the work for the encoder left to the caller."""
        yield from self._begin()
        events = yield from self._listen(self._resampler.flush())
        events += yield from self._encode(self._gate.flush())
        return events + self._tell_silence(0)

    def checkpoint(self) -> bytes | None:
        """What another encoder needs to go on from here with :meth:`resume`.

        Returns:
            None while an utterance is open, and when the last checkpoint is still good: one is made at the
            end of each utterance, and now and then in silence. At most some tens of kilobytes at 16 kHz.
        """
        if self._opening is None or self._heard < self._due:
            return None
        self._due = self._heard + round(CHECKPOINT_INTERVAL * SAMPLE_RATE)
        state = (self._pcm, self._resampler, self._gate, self._heard, self._told, self._opening)
        return pickle.dumps(state, pickle.HIGHEST_PROTOCOL)

    def resume(self, checkpoint: bytes) -> None:
        """Go on where another encoder was, whose checkpoint it is, without telling again what that one told.

        Args:
            checkpoint: from :meth:`checkpoint` of our own; bytes from elsewhere could do anything.
        """
        state = pickle.loads(checkpoint)  # noqa: S301
        self._pcm, self._resampler, self._gate, self._heard, self._told, self._owed = state
        self._due = self._heard + round(CHECKPOINT_INTERVAL * SAMPLE_RATE)

    def _begin(self) -> Generator[Piece, Tensor, None]:
        owed, self._owed = self._owed, []
        yield from self._encode(owed)
        self._opening = None if self._open else []

    def _listen(self, samples: NDArray[np.float32]) -> Encoded:
        self._heard += len(samples)
        events = yield from self._encode(self._gate.push(samples))
        return events + self._tell_silence(round(SILENCE_INTERVAL * SAMPLE_RATE))

    def _encode(self, items: list[gate.GateItem]) -> Encoded:
        events: list[SpeechEvent] = []
        for item in items:
            if self._opening is not None:
                self._opening.append(item)
            match item:
                case gate.SpeechStart(sample=sample, spoken=spoken):
                    self._open = True
                    events.append(SpeechStarted(**self._about(sample, spoken - sample)))
                case gate.SpeechAudio(start=start, samples=samples):
                    self._paused = False
                    events += yield from self._heard_speech(samples, start + len(samples))
                case gate.SpeechPause(sample=sample):
                    events.append((yield from self._pause(sample)))
                case gate.SpeechEnd(sample=sample, spoken=spoken):
                    if not self._paused:
                        events.append((yield from self._pause(sample)))
                    self._audio = self._model.audio_stream()
                    self._told = sample
                    self._open, self._opening, self._due = False, [], 0
                    events.append(SpeechEnded(**self._about(sample, sample - spoken)))
        return events

    def _about(self, sample: int, margin: int) -> dict[str, float]:
        return {
            "audio_time": self.audio_time,
            "time": sample / SAMPLE_RATE,
            "margin": margin / SAMPLE_RATE,
        }

    def _pause(self, sample: int) -> Generator[Piece, Tensor, SpeechPaused]:
        self._paused = True
        tokens = yield from self._audio.fork().steps(np.zeros(TAIL, np.float32))
        time = sample / SAMPLE_RATE
        return SpeechPaused(audio_time=self.audio_time, time=time, tokens=tokens.cpu().numpy())

    def _heard_speech(self, samples: NDArray[np.float32], end: int) -> Encoded:
        tokens = yield from self._audio.steps(samples)
        if not len(tokens):
            return []
        return [SpeechHeard(audio_time=self.audio_time, time=end / SAMPLE_RATE, tokens=tokens.cpu().numpy())]

    def _tell_silence(self, interval: int) -> list[SpeechEvent]:
        until = self._gate.silent_until
        if until - self._told <= interval:
            return []
        self._told = until
        return [Silence(audio_time=self.audio_time, time=until / SAMPLE_RATE)]
