"""Speech synthesisers behind one interface, sentences in, 16 kHz waveforms out; and those run in process."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

from pipeline.config import SAMPLE_RATE
from pipeline.training import libraries
from pipeline.training.libraries import Pcm

ACCENTS = {
    "es": ("es", "es-419"),
    "fr": ("fr", "fr-be", "fr-ch"),
    "it": ("it",),
    "pt": ("pt-br", "pt"),
    "en": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029"),
}
"""Of espeak-ng, by language."""


@dataclass(frozen=True)
class Speech:
    """One synthesised sentence.

    Args:
        pcm: int16 [samples] at 16 kHz, without silence around it.
        word_ends: for each word of the text the sample at which it has been said; empty where the
            engine does not tell.
    """

    pcm: Pcm
    word_ends: tuple[int, ...] = ()


class Voice(Protocol):
    """One voice of one engine."""

    @property
    def name(self) -> str:
        """Engine and voice."""

    @property
    def language(self) -> str:
        """ISO 639-1 code."""

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """Speak each text, with pace and pitch drawn from ``random``; None where the engine stays silent."""


def trimmed(pcm: npt.NDArray[np.generic], rate: int, word_ends: Sequence[int] = ()) -> Speech | None:
    """``pcm`` at 16 kHz and -1 dB peak without the silence around it; None if there is nothing else."""
    wave = pcm.astype(np.float32)
    if rate != SAMPLE_RATE:
        wave = soxr.resample(wave, rate, SAMPLE_RATE, quality="MQ")
    peak = float(np.abs(wave).max(initial=0.0))
    loud = np.flatnonzero(np.abs(wave) > 0.01 * peak) if peak > 100 else np.empty(0, np.int64)
    if loud.size < SAMPLE_RATE // 10:
        return None
    first, last = int(loud[0]), int(loud[-1]) + 1
    scaled = (wave[first:last] * (29_000 / peak)).astype(np.int16)
    ends = tuple(min(max(round(end * SAMPLE_RATE / rate) - first, 0), last - first) for end in word_ends)
    return Speech(scaled, ends)


@dataclass(frozen=True)
class EspeakVoice:
    """A language and a voice variant of espeak-ng, such as ``es-419+f2``."""

    language: str
    voice: str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"espeak-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`; rate, pitch and pitch range as a person would vary them."""
        engine, results = libraries.espeak(), []
        for text in texts:
            pcm, word_ends = engine.speak(
                text,
                self.voice,
                rate=random.randint(120, 210),
                pitch=random.randint(20, 80),
                pitch_range=random.randint(30, 80),
            )
            results.append(trimmed(pcm, engine.rate, word_ends))
        return results


@dataclass(frozen=True)
class PicoVoice:
    """SVOX Pico; ``spell`` turns the text into the spelling of the engine's own language, or gives up."""

    language: str
    voice: str
    spell: Callable[[str], str | None] = str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"pico-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`."""
        results = []
        for text in texts:
            spelled = self.spell(re.sub(r"[<>&]", " ", text))
            speed, pitch = random.randint(75, 140), random.randint(70, 140)
            marked = f'<speed level="{speed}"><pitch level="{pitch}">{spelled}</pitch></speed>'
            results.append(
                trimmed(libraries.pico(self.voice).speak(marked), SAMPLE_RATE) if spelled else None
            )
        return results


@dataclass(frozen=True)
class FliteVoice:
    """flite; American English only."""

    language: str
    voice: str

    @property
    def name(self) -> str:
        """Engine and voice."""
        return f"flite-{self.voice}"

    def speak(self, texts: Sequence[str], random: Random) -> list[Speech | None]:
        """See :class:`Voice`."""
        engine = libraries.flite(self.voice)
        return [trimmed(*engine.speak(text, random.uniform(0.8, 1.3))) for text in texts]
