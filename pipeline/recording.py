"""A whole recording at once: what a live stream of it would end up with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.config import SAMPLE_RATE, AudioFormat, StreamConfig
from pipeline.errors import AudioError
from pipeline.model import Gemma3n
from pipeline.stream import Stream
from pipeline.text.subtitles import Cue
from pipeline.wire.events import Event, Transcript
from pipeline.wire.events import Translation as TranslationEvent

PIECE = 10 * SAMPLE_RATE
"""Samples that are worked on at once; final text does not depend on it."""


@dataclass(frozen=True)
class Utterance:
    """Something said.

    Args:
        start: where it begins, in seconds.
        end: where it ends, in seconds.
        transcript: what was said.
        translations: what it means, by language code.
        language: code of the one spoken.
    """

    start: float
    end: float
    transcript: str
    translations: dict[str, str] = field(default_factory=dict)
    language: str = ""


@dataclass(frozen=True)
class Translation:
    """All utterances of a recording that had words, in order.

    Args:
        source: language that is spoken, as it was named.
        targets: languages it was translated into.
        duration: of the recording, in seconds.
        utterances: what was said.
    """

    source: str
    targets: tuple[str, ...]
    duration: float
    utterances: list[Utterance]

    def cues(self, language: str) -> list[Cue]:
        """Subtitles in one of the targets, or in the spoken language."""
        texts = (
            (said, said.transcript if language == self.source else said.translations[language])
            for said in self.utterances
        )
        return [Cue(said.start, said.end, text) for said, text in texts if text]


def translate(
    model: Gemma3n,
    waveform: NDArray[np.float32],
    source: str,
    targets: Sequence[str],
    *,
    config: StreamConfig | None = None,
    progress: Callable[[float], None] = lambda seconds: None,
) -> Translation:
    """Transcribe and translate a recording of any length.

    Args:
        model: may be in use elsewhere.
        waveform: float32 [samples] at 16 kHz.
        source: of the spoken language, as for :class:`~pipeline.stream.Stream`.
        targets: codes of the languages to translate into.
        config: further settings, as for :class:`~pipeline.stream.Stream`.
        progress: told how many seconds have been heard, now and then.

    Raises:
        AudioError: the waveform has another shape, or samples that are not audio.
        LanguageError: the model does not know one of the languages.
    """
    if waveform.ndim != 1:
        raise AudioError(f"a waveform must have the shape [samples], got {list(waveform.shape)}")
    stream = Stream(model, source, targets, AudioFormat("pcm_f32le"), config)
    events: list[Event] = []
    for begin in range(0, len(waveform), PIECE):
        piece = waveform[begin : begin + PIECE]
        events += stream.feed(piece.astype("<f4").tobytes())
        progress((begin + len(piece)) / SAMPLE_RATE)
    events += stream.close()
    utterances: dict[int, Utterance] = {}
    for event in events:
        match event:
            case Transcript(final=True, stable=text):
                language = event.language or source
                utterances[event.utterance] = Utterance(event.start, event.end, text, language=language)
            case TranslationEvent(final=True, stable=text):
                utterances[event.utterance].translations[event.target] = text
    said = [utterance for utterance in utterances.values() if utterance.transcript]
    return Translation(source, tuple(targets), len(waveform) / SAMPLE_RATE, said)
