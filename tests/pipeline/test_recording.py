"""A whole recording: what a live stream of it ends up with."""

from __future__ import annotations

import numpy as np
import pytest

import pipeline
from pipeline import Stream, Translation, Utterance, translate
from pipeline.config import StreamConfig
from pipeline.errors import AudioError, LanguageError
from pipeline.recording import PIECE
from pipeline.text.subtitles import Cue

BRIEF = StreamConfig(max_new_tokens=4, partial_interval=1.28)
"""A random model never ends by itself."""


def test_a_recording_is_translated_as_a_live_stream_of_it_is(babbler, talk):
    result = translate(babbler, talk, source="es", targets=["en"], config=BRIEF)
    stream = Stream(babbler, "es", ["en"], config=BRIEF)
    data = np.rint(talk * 32_768).astype("<i2").tobytes()
    events = [
        event for begin in range(0, len(data), 3_200) for event in stream.feed(data[begin : begin + 3_200])
    ]
    live = [e.stable for e in [*events, *stream.close()] if e.type == "transcript" and e.final and e.stable]

    assert [said.transcript for said in result.utterances] == live
    assert all(said.translations.keys() == {"en"} for said in result.utterances)
    assert result.duration == len(talk) / 16_000
    assert (result.source, result.targets) == ("es", ("en",))


def test_a_long_recording_is_heard_to_its_end(babbler, talk):
    """Minutes, not the 30 seconds at which the reference cuts."""
    long = np.tile(talk, 10)
    told: list[float] = []
    result = translate(babbler, long, "es", ["en"], config=BRIEF, progress=told.append)
    starts = [said.start for said in result.utterances]

    assert len(long) / 16_000 > 130
    assert starts == sorted(starts)
    assert starts[-1] > len(long) / 16_000 - 8
    assert told[-1] == result.duration
    assert len(told) == -(-len(long) // PIECE)


def test_utterances_without_words_are_left_out(babbler):
    assert translate(babbler, np.zeros(40_000, np.float32), "es", ["en"]).utterances == []
    assert translate(babbler, np.zeros(0, np.float32), "es", ["en"]).duration == 0


def test_cues_are_in_the_language_asked_for():
    said = [
        Utterance(1.0, 2.0, "Hola.", {"en": "Hello.", "fr": ""}),
        Utterance(3.0, 4.0, "Sí.", {"en": "Yes.", "fr": ""}),
    ]
    translation = Translation("es", ("en", "fr"), 5.0, said)

    assert translation.cues("en") == [Cue(1.0, 2.0, "Hello."), Cue(3.0, 4.0, "Yes.")]
    assert translation.cues("es") == [Cue(1.0, 2.0, "Hola."), Cue(3.0, 4.0, "Sí.")]
    assert translation.cues("fr") == []


def test_bad_input_is_refused(babbler):
    with pytest.raises(AudioError, match=r"must have the shape \[samples\], got \[2, 5\]"):
        translate(babbler, np.zeros((2, 5), np.float32), "es", ["en"])
    with pytest.raises(LanguageError, match="'xx'"):
        translate(babbler, np.zeros(5, np.float32), "es", ["xx"])


def test_the_package_offers_its_interface_by_name():
    assert pipeline.translate is translate
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pipeline.nonsense
