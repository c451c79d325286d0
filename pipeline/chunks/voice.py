"""Whether anybody speaks in an utterance: a second opinion on what the gate takes for speech.

What :mod:`pipeline.chunks.vad` measures is cheap and finds all speech, and with it much music, applause and
breathing. Silero's network (S. Silero Team, *Silero VAD*, v6) hardly ever takes these for a voice, as long as
it hears them from their beginning on: of a second out of the middle it says so now and then. So each
utterance has a listener of its own, which hears all of it.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from kernels.voice import CHUNK, forgotten, probability
from pipeline.chunks.silero import network

VOICED = 0.9
"""Least probability of a chunk that speaks for a voice."""

WINDOW_CHUNKS, LEAST_CHUNKS = 30, 6
"""How many of how many chunks in a row have to, before there is a voice: 0.19 of 0.96 s. A word of one
syllable has as many, and some of them may be behind it."""

STILL_VOICED = 0.5
"""Least probability of a chunk in which a voice that was there goes on."""

LOUD, MOST_GAIN = 0.1, 20.0
"""Quieter peaks (-20 dBFS) are brought up to this, by 26 dB at most: Silero is deaf to what is faint."""

FADING = 0.95
"""What is left of a peak after a chunk: 20 dB less after 1.4 s."""


class Listener:
    """Listens for a voice in one utterance.

    What it says depends on the samples alone, however they are cut. It can be pickled.
    """

    def __init__(self) -> None:
        self._memory = forgotten()
        self._rest = np.empty(0, np.float32)
        self._peak = 0.0
        self._last: deque[bool] = deque(maxlen=WINDOW_CHUNKS)
        self._silent = 0

    @property
    def voiced(self) -> bool:
        """Whether there is a voice in the last second."""
        return sum(self._last) >= LEAST_CHUNKS

    @property
    def silent(self) -> int:
        """Samples since a voice was heard last, or could have gone on."""
        return self._silent * CHUNK

    def push(self, samples: NDArray[np.float32]) -> None:
        """Hear the next samples: float32 ``[n]`` at 16 kHz, finite values, any number of them."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // CHUNK * CHUNK
        self._rest = samples[whole:].copy()
        for chunk in samples[:whole].reshape(-1, CHUNK):
            self._hear(chunk)

    def _hear(self, chunk: NDArray[np.float32]) -> None:
        self._peak = max(self._peak * FADING, float(np.abs(chunk).max()))
        gain = LOUD / max(self._peak, LOUD / MOST_GAIN)
        likely = probability(chunk * np.float32(max(1.0, gain)), network(), self._memory)
        self._last.append(likely >= VOICED)
        self._silent = 0 if likely >= STILL_VOICED else self._silent + 1
