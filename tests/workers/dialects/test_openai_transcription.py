"""OpenAI's transcription sessions, by the official package and by literal frames."""

from __future__ import annotations

import json

import pytest
from openai import AsyncOpenAI

from pipeline.errors import LanguageError
from pipeline.wire import commands
from tests.workers.conftest import emptied, running
from tests.workers.dialects.conftest import dialled, spoken
from tests.workers.doubles import SpellingDecoder, loaded
from workers.decoder import DecoderWorker
from workers.dialects.openai_transcription import TranscriptionSession

PATH = "/v1/realtime?intent=transcription"
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


def append(text, silence=0):
    return {"type": "input_audio_buffer.append", "audio": spoken(text, silence)}


def update(**settings):
    return {
        "type": "session.update",
        "session": {"type": "transcription", "audio": {"input": settings}},
    }


def kinds(received):
    return [event["type"] for event in received]


async def test_the_official_client_hears_turns(server):
    client = AsyncOpenAI(api_key="none", base_url=f"{server.http}/v1")
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        created = await connection.recv()
        await connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24_000},
                        "transcription": {"model": "gpt-4o-transcribe", "language": "es"},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
                    }
                },
            }
        )
        updated = await connection.recv()
        await connection.input_audio_buffer.append(audio=spoken("hola mundo. adios."))
        events = []
        async for event in connection:
            events.append(event)
            if [e.type for e in events].count(COMPLETED) == 2:
                break

    assert created.type == "session.created"
    assert created.session.type == "transcription"
    assert updated.session.audio.input.transcription.language == "es"
    assert updated.session.audio.input.turn_detection.type == "server_vad"
    first, second = [event for event in events if event.type == COMPLETED]
    assert (first.transcript, second.transcript) == ("hola mundo", "adios")
    assert first.usage.type == "duration"
    deltas = "".join(e.delta for e in events if e.type == DELTA and e.item_id == first.item_id)
    assert deltas == first.transcript
    of_first = [e.type for e in events if getattr(e, "item_id", None) == first.item_id]
    assert of_first[0] == "input_audio_buffer.speech_started"
    assert of_first[-3:] == ["input_audio_buffer.speech_stopped", "input_audio_buffer.committed", COMPLETED]
    committed = [e for e in events if e.type == "input_audio_buffer.committed"]
    assert [e.previous_item_id for e in committed] == [None, first.item_id]
    added = [e for e in events if e.type == "conversation.item.added"]
    assert [e.item.id for e in added] == [first.item_id, second.item_id]


async def test_a_closed_connection_leaves_no_stream(server):
    async with dialled(server, PATH) as socket:
        await socket.send(append("hola."))
        await socket.until(COMPLETED)

    await emptied([*server.encoders, *server.decoders])


async def test_without_turn_detection_an_item_is_what_is_between_two_commits(server):
    async with dialled(server, PATH) as socket:
        await socket.send(update(turn_detection=None))
        await socket.send(append("uno. dos", 4_800), {"type": "input_audio_buffer.commit"})
        await socket.send(append("tres", 4_800), {"type": "input_audio_buffer.commit"})
        received = await socket.until(COMPLETED)
        received += await socket.until(COMPLETED)

    first, second = [event for event in received if event["type"] == COMPLETED]
    assert (first["transcript"], second["transcript"]) == ("uno dos", "tres")
    for item in (first, second):
        deltas = [e["delta"] for e in received if e["type"] == DELTA and e["item_id"] == item["item_id"]]
        assert "".join(deltas) == item["transcript"]
    assert "input_audio_buffer.speech_started" not in kinds(received)
    committed = [e for e in received if e["type"] == "input_audio_buffer.committed"]
    assert [e["item_id"] for e in committed] == [first["item_id"], second["item_id"]]


async def test_what_was_cleared_is_in_no_item(server):
    async with dialled(server, PATH) as socket:
        await socket.send(update(turn_detection=None), append("uno."), {"type": "input_audio_buffer.clear"})
        await socket.send(append("dos.", 4_800), {"type": "input_audio_buffer.commit"})
        received = await socket.until(COMPLETED)

    assert "input_audio_buffer.cleared" in kinds(received)
    assert received[-1]["transcript"] == "dos"


async def test_a_commit_ends_a_turn(server):
    async with dialled(server, PATH) as socket:
        await socket.send(append("hola", 4_800), {"type": "input_audio_buffer.commit"})
        received = await socket.until(COMPLETED)

    assert received[-1]["transcript"] == "hola"


async def test_a_commit_without_audio_is_an_error_and_the_session_goes_on(server):
    async with dialled(server, PATH) as socket:
        await socket.send({"type": "input_audio_buffer.commit", "event_id": "mine"})
        _, error = await socket.until("error")
        await socket.send(append("hola."))
        received = await socket.until(COMPLETED)

    assert error["error"]["code"] == "input_audio_buffer_commit_empty"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["event_id"] == "mine"
    assert received[-1]["transcript"] == "hola"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("[]", "JSON object"),
        ("{", "not JSON"),
        (b"\0\0", "base64"),
        ({"type": "response.create"}, "unknown event type"),
        ({"type": "input_audio_buffer.append", "audio": "%%"}, "base64"),
        ({"type": "input_audio_buffer.append"}, "base64"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "'transcription'"),
        ({"type": "session.update", "session": 1}, "session must be an object"),
        (update(format={"type": "audio/mp3"}), "audio/pcm"),
        (update(format={"type": "audio/pcm", "rate": 8_000}), "24000"),
        (update(transcription={"language": 5}), "language"),
        (update(transcription={"languages": "es"}), "languages must be a list"),
        (update(transcription={"keywords": "Ana"}), "keywords must be a list"),
        (
            update(transcription={"keywords": ["Ana", "a" * 61]}),
            "keywords: entry 1 must be a term of 1 to 60",
        ),
    ],
)
async def test_what_is_not_accepted_is_an_error_and_the_session_goes_on(server, message, says):
    async with dialled(server, PATH) as socket:
        await socket.send(message)
        received = await socket.until("error")
        await socket.send(append("hola."))
        completed = await socket.until(COMPLETED)

    assert says in received[-1]["error"]["message"]
    assert completed[-1]["transcript"] == "hola"


async def test_a_language_that_the_model_does_not_know_ends_the_session():
    class Strict(SpellingDecoder):
        def __init__(self, config):
            if config.source == "xx":
                raise LanguageError("the model does not know 'xx'")
            super().__init__(config)

    async with (
        running(decoders=[DecoderWorker(lambda: loaded(Strict))]) as server,
        dialled(server, PATH) as socket,
    ):
        await socket.send(update(transcription={"language": "xx-XX"}), append("hola."))
        received, code = await socket.rest()

    assert received[-1]["error"]["code"] == "unknown_language"
    assert code == 1008


async def test_who_names_no_language_has_it_detected():
    """And is told of none; who has named one and takes it back, too."""
    sources = []

    class Noting(SpellingDecoder):
        def __init__(self, config):
            sources.append(config.source)
            super().__init__(config)

    async with running(decoders=[DecoderWorker(lambda: loaded(Noting))]) as server:
        for settings in ([], [{"language": "en"}, {"language": None}], [{"languages": ["en", "fr"]}]):
            async with dialled(server, PATH) as socket:
                created = await socket.receive()
                for transcription in settings:
                    await socket.send(update(transcription=transcription))
                await socket.send(append("hola."))
                await socket.until(DELTA)

            assert created["session"]["audio"]["input"]["transcription"]["language"] is None

    assert sources == ["auto", "auto", "en,fr"]


def test_keywords_are_a_glossary():
    session = TranscriptionSession({}, ("es", "en"), beta=False)

    def taken(message):
        steps = session.receive(json.dumps(message))
        return [step for step in steps if isinstance(step, commands.Start | commands.Update)]

    assert taken(update(transcription={"keywords": ["Ana Belén", "RISC-V"]})) == []
    (start,) = taken(append("hola"))
    assert start.glossary == ("Ana Belén", "RISC-V")
    assert taken(update(transcription={"model": "any"})) == []
    assert taken(update(transcription={"keywords": ["Ana"]})) == [commands.Update(glossary=("Ana",))]
    assert taken(update(transcription={"keywords": None})) == [commands.Update(glossary=())]


async def test_settings_cannot_change_under_a_running_stream(server):
    async with dialled(server, PATH) as socket:
        await socket.send(append("ho"), update(transcription={"language": "en"}), append("la."))
        received = await socket.until(COMPLETED)

    assert "another session" in next(e for e in received if e["type"] == "error")["error"]["message"]
    assert received[-1]["transcript"] == "hola"


async def test_the_form_before_ga(server):
    """The frames of a client of 2025, literally."""
    async with dialled(server, PATH, additional_headers={"OpenAI-Beta": "realtime=v1"}) as socket:
        created = await socket.receive()
        await socket.send(
            '{"type":"transcription_session.update","session":{"input_audio_format":"pcm16",'
            '"input_audio_transcription":{"model":"gpt-4o-transcribe","prompt":"","language":"es"},'
            '"turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,'
            '"silence_duration_ms":500},"input_audio_noise_reduction":{"type":"near_field"}}}'
        )
        updated = await socket.receive()
        await socket.send(append("hola."))
        received = await socket.until(COMPLETED)

    assert created["type"] == "transcription_session.created"
    assert updated["type"] == "transcription_session.updated"
    assert updated["session"]["input_audio_format"] == "pcm16"
    assert updated["session"]["input_audio_transcription"]["language"] == "es"
    assert "conversation.item.created" in kinds(received)
    assert "conversation.item.added" not in kinds(received)


@pytest.mark.parametrize(("form", "name"), [("audio/pcmu", "g711_ulaw"), ("audio/pcma", "g711_alaw")])
async def test_telephone_audio(server, form, name):
    async with dialled(server, PATH) as now, dialled(server, PATH) as before:
        await now.send(update(format={"type": form}), append("hola."))
        await before.send(
            {"type": "transcription_session.update", "session": {"input_audio_format": name}}, append("hola.")
        )

        assert (await now.until(COMPLETED))[-1]["transcript"] == "hola"
        assert (await before.until(COMPLETED))[-1]["transcript"] == "hola"


async def test_browsers_are_given_their_subprotocol(server):
    offered = ["realtime", "openai-insecure-api-key.none", "openai-beta.realtime-v1"]
    async with dialled(server, PATH, subprotocols=offered) as socket:
        created = await socket.receive()

        assert socket.connection.subprotocol == "realtime"
        assert created["type"] == "transcription_session.created"
