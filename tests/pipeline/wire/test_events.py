"""Events: numbered without gaps, written as the protocol has them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pipeline.errors import ProtocolError
from pipeline.wire import events
from pipeline.wire.events import (
    Done,
    Error,
    Mark,
    Ready,
    Sequencer,
    SpeechStart,
    SpokenWord,
    Transcript,
    decode,
    encode,
)


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
    kinds = [
        kind for kind in vars(events).values() if getattr(kind, "type", "") and dataclasses.is_dataclass(kind)
    ]

    assert len({kind.type for kind in kinds}) == len(kinds) == 10


ALL = [
    events.Ready(token="t", model="m", source="es", targets=("en", "fr"), limits={"targets": 8}),
    events.SpeechStart(utterance=1, time=0.5),
    events.SpeechEnd(utterance=1, time=1.5),
    events.Transcript(utterance=1, start=0.5, end=1.5, stable="Sí", tentative="", final=True),
    events.Translation(
        utterance=1, start=0.5, end=1.5, stable="Yes", tentative=".", final=False, target="en"
    ),
    events.Ack(audio_time=1.5),
    events.Status(behind=1.0, action="none"),
    events.Mark(id="here"),
    events.Error(code="internal", message="no", fatal=True),
    events.Done(audio_seconds=2.0, utterances=1, latency={"finals": 1}),
]


@pytest.mark.parametrize("event", ALL, ids=lambda event: event.type)
def test_clients_read_what_was_written(event):
    event = Sequencer("stream").stamp(event, server_time=7.0)

    assert decode(encode(event)) == event


def test_clients_leave_out_what_they_do_not_know():
    assert decode('{"type":"mark","id":"here","colour":"red"}') == events.Mark(id="here")
    assert decode('{"type":"rainbow"}') is None


@pytest.mark.parametrize(
    "text", ["", "[]", "7", "{}", '{"type":"mark"}', '{"type":[]}', '{"type":"ready","targets":1}']
)
def test_what_is_no_event_is_refused(text):
    with pytest.raises(ProtocolError, match="no event"):
        decode(text)


def test_words_are_told_only_where_there_are_any():
    about = {"utterance": 0, "start": 0.0, "end": 1.0, "stable": "hola", "tentative": "", "final": True}
    plain = Transcript(**about)
    timed = Transcript(**about, words=(SpokenWord("hola", 0.32, 0.8),))

    assert "words" not in json.loads(encode(plain))
    assert json.loads(encode(timed))["words"] == [{"word": "hola", "start": 0.32, "end": 0.8}]
    assert [decode(encode(event)) for event in (plain, timed)] == [plain, timed]
