"""Events: numbered without gaps, written as the protocol has them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pipeline.wire import events
from pipeline.wire.events import Done, Error, Mark, Ready, Sequencer, SpeechStart, Transcript, encode


def test_events_are_numbered_from_one_without_gaps():
    sequencer = Sequencer("s")
    stamped = [sequencer.stamp(Mark(id=name), server_time=7.5) for name in "abc"]

    assert [event.seq for event in stamped] == [1, 2, 3]
    assert {(event.stream_id, event.server_time) for event in stamped} == {("s", 7.5)}
    assert [event.id for event in stamped] == ["a", "b", "c"]


def test_streams_are_numbered_apart():
    first, second = Sequencer("a"), Sequencer("b")
    first.stamp(Mark(id=""))

    assert second.stamp(Mark(id="")).seq == 1


def test_the_wire_form_begins_with_what_every_event_has():
    event = SpeechStart(utterance=2, time=1.25, audio_time=1.5)

    assert list(json.loads(encode(Sequencer("s").stamp(event, server_time=9.0))).items()) == [
        ("type", "speech_start"),
        ("stream_id", "s"),
        ("seq", 1),
        ("audio_time", 1.5),
        ("server_time", 9.0),
        ("utterance", 2),
        ("time", 1.25),
    ]


def test_text_is_written_as_it_is():
    event = Transcript(utterance=0, start=0.0, end=1.0, stable="¿Qué?", tentative=' "sí"\n', final=False)

    assert "¿Qué?" in encode(event)
    assert json.loads(encode(event))["tentative"] == ' "sí"\n'


@pytest.mark.parametrize("event", [Ready(), Done(), Error(code="x", message="y", fatal=True)])
def test_defaults_are_json(event):
    message = json.loads(encode(event))

    assert message.keys() == {"type", *(field.name for field in dataclasses.fields(event))}


def test_types_are_distinct():
    kinds = [kind for kind in vars(events).values() if dataclasses.is_dataclass(kind) and kind.type]

    assert len({kind.type for kind in kinds}) == len(kinds) == 10
