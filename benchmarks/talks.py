"""Talks whose truth is known: held-out sentences, spoken one after the other, with where each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import ENGINES, Clip, held_out_pairs, noises, spoken
from pipeline.config import SAMPLE_RATE

ROOM = 3e-4
"""Level of the noise in which everything is said: -70 dBFS."""

AUDIBLE = 0.01
"""A clip is speech from its first to its last sample of this part of its peak."""


@dataclass(frozen=True)
class Sentence:
    """Something that is said in a talk.

    Args:
        start: when it begins to be heard, in seconds.
        end: when it is over.
        said: in the talk's language.
        meant: in the other one.
    """

    start: float
    end: float
    said: str
    meant: str


@dataclass(frozen=True, eq=False)
class Talk:
    """A recording and all that is said in it.

    Args:
        name: as of a file.
        source: language that is spoken.
        target: language to translate into.
        waveform: float32 [samples] at 16 kHz.
        sentences: in order.
        clips: what each sentence is by itself, as long as its sound.
    """

    name: str
    source: str
    target: str
    waveform: NDArray[np.float32]
    sentences: Sequence[Sentence]
    clips: Sequence[Clip]


def compose(
    name: str,
    source: str,
    target: str,
    clips: Sequence[Clip],
    *,
    pauses: tuple[float, float],
    seed: int = 0,
) -> Talk:
    """Have clips follow each other.

    Args:
        name: of the talk.
        source: language that is spoken.
        target: language of the clips' translations.
        clips: what is said.
        pauses: least and most seconds between two sentences; none at all makes speech without a pause.
        seed: of the pauses and the noise.
    """
    random, noise = Random(seed), np.random.default_rng(seed)
    parts: list[NDArray[np.float32]] = [np.zeros(SAMPLE_RATE, np.float32)]
    sentences, trimmed = [], []
    for clip in clips:
        loud = np.flatnonzero(np.abs(clip.waveform) >= AUDIBLE * np.abs(clip.waveform).max())
        sound = clip.waveform[loud[0] : loud[-1] + 1]
        begin = sum(map(len, parts))
        sentences.append(
            Sentence(
                begin / SAMPLE_RATE,
                (begin + len(sound)) / SAMPLE_RATE,
                clip.transcript,
                clip.translation or "",
            )
        )
        trimmed.append(Clip(sound, clip.transcript, clip.translation))
        pause = np.zeros(round(random.uniform(*pauses) * SAMPLE_RATE), np.float32)
        parts += [sound, pause]
    parts.append(np.zeros(SAMPLE_RATE, np.float32))
    waveform = np.concatenate(parts)
    waveform += noise.normal(0, ROOM, len(waveform)).astype(np.float32)
    return Talk(name, source, target, waveform, sentences, trimmed)


def held_out_talks(sentences: int, pauses: tuple[float, float], engine: str = "espeak-ng") -> list[Talk]:
    """A Spanish and an English talk of held-out sentences, each in voices that training never heard.

    Raises:
        OSError: the engine is not installed.
    """
    pairs = held_out_pairs()[:sentences]
    turned = [(english, spanish) for spanish, english in pairs]
    voices = ENGINES[engine]
    return [
        compose("talk-es.wav", "es", "en", spoken(pairs, voices("es")), pauses=pauses),
        compose("talk-en.wav", "en", "es", spoken(turned, voices("en")), pauses=pauses),
    ]


def nobody(seconds: float) -> NDArray[np.float32]:
    """Silence, noise, hum, chords and bursts in turn, in which nobody speaks, [seconds * 16000]."""
    parts: list[NDArray[np.float32]] = []
    for clip in noises(max(4, round(seconds / 3))):
        parts += [clip, np.zeros(SAMPLE_RATE // 2, np.float32)]
    return np.concatenate(parts)[: round(seconds * SAMPLE_RATE)]
