"""A stream from bytes to events, in one process."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import Stream
from pipeline.config import AudioFormat, ContextConfig, StreamConfig
from pipeline.errors import LanguageError, UnsupportedError
from tests.pipeline.test_speech import cut

FLOATS = AudioFormat("pcm_f32le")

BRIEF = StreamConfig(max_new_tokens=4)
"""A random model never ends by itself."""


def run(stream, pieces):
    return [*(event for piece in pieces for event in stream.feed(piece)), *stream.close()]


def finals(events):
    return [
        (event.type, event.utterance, event.start, event.end, event.stable)
        for event in events
        if getattr(event, "final", False)
    ]


def test_events_are_numbered_and_end_with_done(babbler, talk):
    events = run(Stream(babbler, source="es", targets=["en"], audio=FLOATS, config=BRIEF), [talk.tobytes()])

    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events].count("done") == 1
    assert events[-1].type == "done"
    assert events[-1].utterances == 3
    assert events[-1].audio_seconds == pytest.approx(len(talk) / 16_000)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False), count=st.integers(1, 200))
def test_final_text_does_not_depend_on_the_frames(babbler, talk, rng, count):
    data = talk.tobytes()
    whole = run(Stream(babbler, "es", ["en"], FLOATS, BRIEF), [data])
    pieces = run(Stream(babbler, "es", ["en"], FLOATS, BRIEF), cut(data, rng, count))

    assert finals(pieces) == finals(whole)


def test_a_closed_stream_is_as_new(babbler, talk):
    stream = Stream(babbler, "es", ["en"], FLOATS, BRIEF)
    first = run(stream, [talk.tobytes()])

    assert run(stream, [talk.tobytes()]) == first


def test_a_reset_forgets_what_was_begun(babbler, talk):
    stream = Stream(babbler, "es", ["en"], FLOATS, BRIEF)
    expected = run(stream, [talk.tobytes()])
    stream.feed(talk[:40_001].tobytes() + b"x")
    stream.reset()

    assert run(stream, [talk.tobytes()]) == expected


def test_streams_of_one_model_do_not_mix(babbler, talk):
    alone = run(Stream(babbler, "es", ["en"], FLOATS, BRIEF), [talk.tobytes()])
    one, other = Stream(babbler, "es", ["en"], FLOATS, BRIEF), Stream(babbler, "en", ["es"], FLOATS, BRIEF)
    events = []
    for begin in range(0, len(talk), 5_000):
        piece = talk[begin : begin + 5_000]
        events += one.feed(piece.tobytes())
        other.feed(piece[::-1].tobytes())
    other.close()

    assert finals([*events, *one.close()]) == finals(alone)


def test_sixteen_bit_mono_is_the_default(babbler, talk):
    stream = Stream(babbler, source="es", targets=["en"], config=BRIEF)
    data = (talk * 32_767).astype("<i2").tobytes()

    assert run(stream, [data])[-1].utterances == 3


def test_nothing_said_is_nothing_heard(babbler):
    events = run(Stream(babbler, "es", ["en"]), [bytes(320_000)])

    assert {event.type for event in events} == {"ack", "done"}
    assert events[-1].utterances == 0


def test_speech_behind_a_long_silence_is_heard_and_translated_as_before(babbler, talk):
    """Ten minutes in which nobody speaks: the same utterances behind them, each with its translation."""
    room = np.random.default_rng(1).normal(0, 1e-3, 600 * 16_000).astype("<f4")
    stream = Stream(babbler, "es", ["en"], FLOATS, BRIEF)
    first = stream.feed(talk.tobytes())
    between = stream.feed(room.tobytes())
    second = [*stream.feed(talk.tobytes()), *stream.close()]
    begin = (len(talk) + len(room)) / 16_000
    spoken = [
        [(e.start - at, e.end - at) for e in events if e.type == "transcript" and e.final]
        for events, at in ((first + between, 0.0), (second, begin))
    ]

    assert len(spoken[0]) == len(spoken[1]) == 3
    for before, behind in zip(*spoken, strict=True):
        assert behind == pytest.approx(before, abs=0.3)  # the detector knows the room better by then
    assert [e.target for e in second if e.type == "translation" and e.final] == ["en"] * 3
    assert {e.type for e in between[-500:]} == {"ack"}


def test_settings_are_the_streams_own(babbler, talk):
    config = StreamConfig(source="xx", targets=("yy",), partials=False, max_new_tokens=4)
    events = run(Stream(babbler, "es", ["en"], FLOATS, config), [talk.tobytes()])

    assert all(event.final for event in events if event.type == "transcript")


def test_a_stream_needs_a_target_and_languages_that_are_known(babbler):
    with pytest.raises(ValueError, match="at least one target"):
        Stream(babbler, "es", [])
    with pytest.raises(LanguageError, match="'de'"):
        Stream(babbler, "es", ["de"])


def test_a_closed_stream_has_forgotten_what_was_said(listener, talk, monkeypatch):
    begin, told, step = listener.prompt.before_audio("es", "en")[:2], [], listener.step

    def spy(segments):
        told.extend(
            listener.tokenizer.decode(s.token_ids) for s in segments if list(s.token_ids[:2]) == begin
        )
        return step(segments)

    monkeypatch.setattr(listener, "step", spy)
    config = StreamConfig(max_new_tokens=4, context=ContextConfig("Ana Belén", 3))
    again = Stream(listener, source="es", targets=["en"], audio=FLOATS, config=config)
    first = run(again, [talk.tobytes()])

    assert run(again, [talk.tobytes()]) == first
    assert len(told) == 6
    assert told[3:] == told[:3]
    assert "Ana Belén" in told[0]


def test_a_context_is_for_models_that_were_made_for_it(babbler):
    config = StreamConfig(context=ContextConfig("Ana Belén"))
    with pytest.raises(UnsupportedError, match="not for this model"):
        Stream(babbler, source="es", targets=["en"], config=config)
