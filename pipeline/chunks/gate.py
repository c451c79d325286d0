"""Samples to utterances: where speech starts and ends, and the audio in between.

Frames that may be speech (:mod:`pipeline.chunks.vad`) become utterances by three rules: an utterance opens
when ``onset`` seconds out of the last twice as many are speech; it starts ``preroll`` seconds before the
first of them; it closes when there was no speech for ``hangover`` seconds, and then ends ``postroll``
seconds after the last. It is announced as soon as a voice was heard in it (:mod:`pipeline.chunks.voice`), and
ends early when none was for seconds: what sounds like speech may be music. Nor does the noise of a room that
becomes louder count as speech for longer than it takes to tell. However long somebody speaks, it is one
utterance here: what is said in it decides where it can be parted (:mod:`pipeline.utterance`).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.chunks.vad import FRAME, STEADY_FRAMES, Frame, Vad
from pipeline.chunks.voice import Listener
from pipeline.config import SAMPLE_RATE, GateConfig

SETTLING = SAMPLE_RATE
"""Samples at the start of a stream in which nothing is known yet of the noise floor. Speech that goes on
from before the stream is only noticed after its first dip, so an utterance that opens here starts at 0."""


LONGEST_UNVOICED = 5 * SAMPLE_RATE // 2
"""Samples without a voice that end an utterance which had one."""

STEADY = STEADY_FRAMES * FRAME
"""Samples of a steady sound without a voice, behind which an utterance takes it for the room's."""

UNHEARD = 3 * SAMPLE_RATE // 2
"""Samples without a voice that an utterance begins with at most."""


@dataclass(frozen=True, slots=True)
class SpeechStart:
    """An utterance starts at ``sample``, counted from the start of the stream; its speech at ``spoken``."""

    sample: int
    spoken: int


@dataclass(frozen=True, slots=True, eq=False)
class SpeechAudio:
    """The next samples of the utterance: float32 ``[n]``, the first of which is sample ``start``."""

    start: int
    samples: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SpeechPause:
    """All that was said has been handed out; if nothing more is said, the utterance ends before ``sample``.

    A pause is told once, and not at all if it is over when it could be told.
    """

    sample: int


@dataclass(frozen=True, slots=True)
class SpeechEnd:
    """The utterance ends before ``sample``, its speech before ``spoken``."""

    sample: int
    spoken: int


GateItem = SpeechStart | SpeechAudio | SpeechPause | SpeechEnd


@dataclass
class _Utterance:
    """An utterance that has not ended. All positions are in samples of the stream."""

    start: int
    # Start of its first frame of speech, and end of its last.
    first: int
    spoken: int
    # Frames of speech in it, and how many it takes before it is announced with a SpeechStart.
    frames: int
    needed: int
    # Who hears it, up to which sample, and whether there was a voice.
    heard: int
    listener: Listener = field(default_factory=Listener)
    voiced: bool = False
    announced: bool = False
    # Whether the pause that it is in has been told.
    paused: bool = False
    # End of the last frame that was taken for speech: later than ``spoken`` where it was the room's noise.
    taken: int = field(init=False)
    # Samples before this one have been handed out.
    sent: int = field(init=False)

    def __post_init__(self) -> None:
        self.taken = self.spoken
        self.sent = self.start


class SpeechGate:
    """Cuts a stream of 16 kHz samples into utterances.

    Where utterances start and end, and their samples, do not depend on how the input was cut; only how
    many :class:`SpeechAudio` an utterance is handed out in does, and which pauses are told. Each sample
    belongs to at most one utterance. Audio is handed out as soon as it is sure to belong to one: after
    ``postroll`` seconds without speech the gate waits for either more speech or the hangover. Between calls
    it holds a few seconds of audio at most, however long a stream is silent.

    Args:
        config: when speech starts and ends.
    """

    def __init__(self, config: GateConfig) -> None:
        self._config = config
        self._vad = Vad(config)
        self._onset_frames = _frames(config.onset)
        self._min_frames = _frames(config.min_speech)
        self._preroll = round(config.preroll * SAMPLE_RATE)
        self._postroll = round(config.postroll * SAMPLE_RATE)
        self._hangover = round(config.hangover * SAMPLE_RATE)
        # Samples that may still be handed out or have not filled a frame yet, from sample _origin on.
        self._buffer = np.empty(0, dtype=np.float32)
        self._origin = 0
        # End of the last frame that was judged.
        self._now = 0
        # End of the last utterance: the next one starts no earlier.
        self._ended = 0
        # While no utterance is open: the starts of the last frames, None for those without speech.
        self._recent: deque[int | None] = deque(maxlen=2 * self._onset_frames)
        self._utterance: _Utterance | None = None

    @property
    def silent_until(self) -> int:
        """Everything before this sample is in no open and in no future utterance; it never goes back.

        Without speech it stays ``preroll`` seconds behind the input, during an utterance it is its start,
        and in the first second of a stream it is 0.
        """
        return self._utterance.start if self._utterance else self._earliest_start()

    def push(self, samples: NDArray[np.float32]) -> list[GateItem]:
        """Add samples and return what became certain.

        Args:
            samples: float32 ``[n]`` at 16 kHz, finite values, any number of them.

        Returns:
            Items in the order of the stream.
        """
        self._buffer = np.concatenate([self._buffer, samples])
        unjudged = self._buffer[self._now - self._origin :]
        whole = len(unjudged) // FRAME * FRAME
        return self._judge(self._vad.push(unjudged[:whole]), FRAME)

    def flush(self) -> list[GateItem]:
        """End the utterance that is open, if any, with the samples that were pushed so far.

        The stream may go on afterwards: sample numbers continue, and what was learnt of its noise stays.
        """
        rest = self._buffer[self._now - self._origin :]
        padded = np.pad(rest, (0, -len(rest) % FRAME))
        items = self._judge(self._vad.push(padded), len(rest))
        if self._utterance:
            items += self._close(self._utterance)
        self._recent.clear()
        self._trim()
        return items

    def _judge(self, frames: list[Frame], length: int) -> list[GateItem]:
        """Let the next frames, each ``length`` samples long, open, continue and close utterances."""
        items: list[GateItem] = []
        for frame in frames:
            start, self._now = self._now, self._now + length
            if self._utterance:
                items += self._continue(self._utterance, frame)
            else:
                self._maybe_open(start, frame)
        if self._utterance:
            items += self._hand_out(self._utterance, self._certain(self._utterance))
            items += self._pause(self._utterance)
        self._trim()
        return items

    def _maybe_open(self, start: int, frame: Frame) -> None:
        speech = frame.snr >= self._config.snr_db and not frame.lifted
        self._recent.append(start if speech else None)
        frames = len(self._recent) - self._recent.count(None)
        if speech and frames >= self._onset_frames:
            first = next(start for start in self._recent if start is not None)
            begin = self._earliest_start()
            self._utterance = _Utterance(begin, first, self._now, frames, self._min_frames, heard=begin)
            self._listen(self._utterance)
            self._recent.clear()

    def _earliest_start(self) -> int:
        """Where an utterance starts that opens now, or at the earliest one that opens later."""
        if self._now < SETTLING:
            return self._ended
        first = next((start for start in self._recent if start is not None), self._now)
        return max(self._ended, first - self._preroll)

    def _continue(self, utterance: _Utterance, frame: Frame) -> list[GateItem]:
        self._listen(utterance)
        if utterance.voiced and frame.lifted and utterance.listener.silent >= STEADY:
            # What was said ends where this began, though it was taken for speech.
            utterance.spoken = min(utterance.spoken, self._now - STEADY)
        elif frame.snr >= self._config.release_db:
            utterance.spoken = utterance.taken = self._now
            utterance.frames += 1
            utterance.paused = False
        if self._now - utterance.spoken >= self._hangover:
            return self._close(utterance)
        if utterance.voiced and utterance.listener.silent >= LONGEST_UNVOICED:
            return self._close(utterance)
        if not utterance.voiced and utterance.start < self._now - UNHEARD:
            utterance.start = utterance.sent = self._now - UNHEARD
            utterance.first = max(utterance.first, utterance.start)
        return []

    def _listen(self, utterance: _Utterance) -> None:
        utterance.listener.push(self._buffer[utterance.heard - self._origin : self._now - self._origin])
        utterance.heard = self._now
        utterance.voiced = utterance.voiced or utterance.listener.voiced

    def _certain(self, utterance: _Utterance) -> int:
        """Up to which sample audio is sure to belong to the utterance."""
        return min(self._now, utterance.taken + self._postroll)

    def _hand_out(self, utterance: _Utterance, until: int) -> list[GateItem]:
        items: list[GateItem] = []
        if not utterance.announced:
            if utterance.frames < utterance.needed or not utterance.voiced:
                return items
            utterance.announced = True
            items.append(SpeechStart(utterance.start, utterance.first))
        if until > utterance.sent:
            samples = self._buffer[utterance.sent - self._origin : until - self._origin].copy()
            items.append(SpeechAudio(utterance.sent, samples))
            utterance.sent = until
        return items

    def _pause(self, utterance: _Utterance) -> list[GateItem]:
        until = utterance.taken + self._postroll
        if utterance.paused or not utterance.announced or self._now < until:
            return []
        utterance.paused = True
        return [SpeechPause(until)]

    def _end(self, utterance: _Utterance, end: int) -> list[GateItem]:
        items = self._hand_out(utterance, end)
        if utterance.announced:
            items.append(SpeechEnd(end, utterance.spoken))
            self._ended = end
        self._utterance = None
        return items

    def _close(self, utterance: _Utterance) -> list[GateItem]:
        return self._end(utterance, self._certain(utterance))

    def _trim(self) -> None:
        keep = self._utterance.sent if self._utterance else self._earliest_start()
        self._buffer = self._buffer[keep - self._origin :].copy()
        self._origin = keep


def _frames(seconds: float) -> int:
    """The least number of frames that last as long."""
    return max(1, math.ceil(round(seconds * SAMPLE_RATE) / FRAME))
