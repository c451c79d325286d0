"""Talks whose truth is known: held-out sentences, spoken one after the other, with where each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import ENGINES, Clip, Direction, noises, recorded, sentences, spoken
from pipeline.config import SAMPLE_RATE

ROOM = 3e-4
"""Level of the noise in which everything is said: -70 dBFS."""

AUDIBLE = 0.01
"""A clip is speech from its first to its last sample of this part of its peak."""

AUDIBLE_IN_ROOMS = 0.05
"""The same of recordings of people, which are never silent."""

SOFT_ENDS = 0.3
"""Seconds of such recordings that are left before and behind: an s may be softer than the room is loud."""


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
    audible: float = AUDIBLE,
    ends: float = 0.0,
    seed: int = 0,
) -> Talk:
    """Have clips follow each other.

    Args:
        name: of the talk.
        source: language that is spoken.
        target: language of the clips' translations.
        clips: what is said.
        pauses: least and most seconds between two sentences; none at all makes speech without a pause.
        audible: part of a clip's peak from which on a sample is speech.
        ends: most seconds of a clip that stay before and behind its speech.
        seed: of the pauses and the noise.
    """
    random, noise = Random(seed), np.random.default_rng(seed)
    parts: list[NDArray[np.float32]] = [np.zeros(SAMPLE_RATE, np.float32)]
    said, trimmed = [], []
    for clip in clips:
        loud = np.flatnonzero(np.abs(clip.waveform) >= audible * np.abs(clip.waveform).max())
        kept = max(0, loud[0] - round(ends * SAMPLE_RATE))
        sound = clip.waveform[kept : loud[-1] + 1 + round(ends * SAMPLE_RATE)]
        begin = sum(map(len, parts)) - kept
        said.append(
            Sentence(
                float(begin + loud[0]) / SAMPLE_RATE,
                float(begin + loud[-1] + 1) / SAMPLE_RATE,
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
    return Talk(name, source, target, waveform, said, trimmed)


def held_out_talks(
    directions: Sequence[Direction], count: int, pauses: tuple[float, float], engine: str = "espeak-ng"
) -> list[Talk]:
    """Talks of so many held-out sentences, one for each direction, in voices that training never heard.

    Raises:
        OSError: the engine is not installed.
    """
    voices = ENGINES[engine]
    return [
        compose(
            _name(source, target),
            source,
            target,
            spoken(sentences((source, target), count), voices(source)),
            pauses=pauses,
        )
        for source, target in directions
    ]


def recorded_talks(
    folder: Path, directions: Sequence[Direction], count: int, pauses: tuple[float, float]
) -> list[Talk]:
    """Talks of recordings of people, one for each direction that there are any for.

    Args:
        folder: with recordings and a manifest, as :func:`benchmarks.quality.recorded` wants it; those whose
            translation it does not tell are left out.
        directions: that may be wanted.
        count: most recordings in a talk.
        pauses: least and most seconds of silence that are put between two of them.

    Raises:
        AudioError: a file that the manifest names cannot be read.
    """
    talks = []
    for (source, target), clips in recorded(folder, directions).items():
        if known := [clip for clip in clips if clip.translation is not None][:count]:
            name = _name(source, target)
            talks.append(
                compose(name, source, target, known, pauses=pauses, audible=AUDIBLE_IN_ROOMS, ends=SOFT_ENDS)
            )
    return talks


def _name(source: str, target: str) -> str:
    return f"talk-{source}-{target}.wav"


def nobody(seconds: float) -> NDArray[np.float32]:
    """Silence, noise, hum, chords and bursts in turn, in which nobody speaks, [seconds * 16000]."""
    parts: list[NDArray[np.float32]] = []
    for clip in noises(max(4, round(seconds / 3))):
        parts += [clip, np.zeros(SAMPLE_RATE // 2, np.float32)]
    return np.concatenate(parts)[: round(seconds * SAMPLE_RATE)]
