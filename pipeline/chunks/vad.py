"""Which frames may be speech: WebRTC's detector, corrected where it errs.

WebRTC's detector (a Gaussian mixture over six bands) finds nearly all speech, and takes steady noise, hum
and tones for speech in every one of its modes. Two measures of :mod:`kernels.bands` correct it:

- a frame has to be louder than the noise floor, which is the minimum over the last 1.5 s (minimum
  statistics, R. Martin 2001: speech pauses between its syllables, steady sounds do not);
- in half of the last second's loud frames or more the spectrum has to change as it does in speech. Beeps,
  bells, chords and ringing tones come and go like syllables, but do not change while they last.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels import bands
from pipeline.chunks.detector import Detector
from pipeline.config import SAMPLE_RATE, GateConfig

FRAME = bands.FRAME_LENGTH
"""Samples of a frame: 30 ms, the longest that WebRTC's detector takes."""

FLOOR_FRAMES = 50
"""Frames over which the minimum is the noise floor: 1.5 s, longer than speech goes without a pause."""

CHANGE_FRAMES = 32
"""Loud frames whose median spectral change is looked at, about one second of speech."""

MIN_CHANGE = 1.2
"""Median change (dB per frame) of speech: from 1.6 up in human voices, below 0.6 in tones and most chords."""

STEADY_FRAMES, STEADY_DB = 10, 4.0
"""Over how many frames the levels of noise stay within how many dB. In as much of speech they hardly ever do,
unless there is noise nearly as loud."""

LIFTED_DB = 8.0
"""How far above the floor such frames are if the room has become louder, and the floor is still to follow.
Speech that varies as little is less far above it."""

GAIN = 10.0
"""WebRTC's detector misses quiet speech (peaks below -30 dBFS), so it hears 20 dB more. Louder speech is
clipped by that, which costs it nothing."""


class Frame(NamedTuple):
    """What is known of one frame.

    Attributes:
        level: loudness in dB, see :func:`kernels.bands.describe_frames`.
        snr: level above the noise floor in dB, or 0 where it is no speech for another reason.
        lifted: whether it and the frames before it are noise of a room that has just become louder, or a
            sound as steady as that.
    """

    level: float
    snr: float
    lifted: bool


class Vad:
    """Judges the frames of one stream, in order.

    Args:
        config: ``aggressiveness`` is WebRTC's mode, 0 (lets most through) to 3; frames above
            ``release_db`` are the loud ones.
    """

    def __init__(self, config: GateConfig) -> None:
        self._detector = Detector(config.aggressiveness)
        self._loud = config.release_db
        self._bands = bands.silence()
        # Levels of the last frames; the smallest is the noise floor.
        self._levels: deque[float] = deque(maxlen=FLOOR_FRAMES)
        # Spectral change of the last loud frames.
        self._changes: deque[float] = deque(maxlen=CHANGE_FRAMES)

    def push(self, samples: NDArray[np.float32]) -> list[Frame]:
        """Judge whole frames.

        Args:
            samples: float32 ``[frames * 480]`` at 16 kHz, contiguous.
        """
        count = len(samples) // FRAME
        described = np.empty((count, 2), dtype=np.float32)
        bands.describe_frames(samples, self._bands, described)
        # The detector reads 16-bit samples.
        pcm = np.clip(samples * np.float32(GAIN * 32768), -32768, 32767).astype("<i2").tobytes()
        return [
            self._judge(level, change, pcm[2 * FRAME * i : 2 * FRAME * (i + 1)])
            for i, (level, change) in enumerate(described.tolist())
        ]

    def _judge(self, level: float, change: float, pcm: bytes) -> Frame:
        self._levels.append(level)
        # The detector adapts to all that it hears, so it hears every frame.
        voiced = self._detector.is_speech(pcm, SAMPLE_RATE)
        snr = level - min(self._levels)
        last = [self._levels[-at] for at in range(1, 1 + min(STEADY_FRAMES, len(self._levels)))]
        alike = len(last) == STEADY_FRAMES and max(last) - min(last) < STEADY_DB
        lifted = alike and snr >= LIFTED_DB
        if not voiced or snr < self._loud:
            return Frame(level, 0.0, lifted)
        self._changes.append(change)
        # The lower median: of the first few frames of a beep, half are its attack.
        steady = sorted(self._changes)[(len(self._changes) - 1) // 2] < MIN_CHANGE
        return Frame(level, 0.0 if steady else snr, lifted)
