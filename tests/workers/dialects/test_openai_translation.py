"""OpenAI's translation sessions, by the official package and by literal frames."""

from __future__ import annotations

import asyncio

import pytest
from openai import AsyncOpenAI

from tests.workers.dialects.conftest import dialled, spoken

PATH = "/v1/realtime/translations?model=gpt-realtime-translate"
OUTPUT, INPUT = "session.output_transcript.delta", "session.input_transcript.delta"


def append(text):
    return {"type": "session.input_audio_buffer.append", "audio": spoken(text)}


def text_of(received, kind):
    return "".join(event["delta"] for event in received if event["type"] == kind)


async def test_the_official_client_hears_a_translation(server):
    client = AsyncOpenAI(api_key="none", base_url=f"{server.http}/v1")
    async with client.realtime.translations.connect(
        model="gpt-realtime-translate", extra_query={"source": "es"}
    ) as connection:
        created = await connection.recv()
        await connection.session.update(
            session={
                "audio": {
                    "output": {"language": "de"},
                    "input": {"transcription": {"model": "gpt-4o-transcribe"}},
                }
            }
        )
        updated = await connection.recv()
        await connection.session.input_audio_buffer.append(audio=spoken("hola mundo.adios."))
        await connection.session.close()
        events = []
        async for event in connection:
            events.append(event)

    assert created.type == "session.created"
    assert (created.session.type, created.session.model) == ("translation", "gpt-realtime-translate")
    assert updated.session.audio.output.language == "de"
    assert "".join(e.delta for e in events if e.type == OUTPUT) == "de:HOLA MUNDO de:ADIOS"
    assert "".join(e.delta for e in events if e.type == INPUT) == "hola mundo adios"
    assert all(event.elapsed_ms % 200 == 0 for event in events if event.type == OUTPUT)
    assert events[-1].type == "session.closed"


async def test_the_transcript_comes_only_when_asked_for(server):
    async with dialled(server, PATH) as socket:
        await socket.send(append("hola."), {"type": "session.close"})
        received, code = await socket.rest()

    assert text_of(received, OUTPUT) == "en:HOLA"
    assert text_of(received, INPUT) == ""
    assert code == 1000


async def test_the_target_changes_with_the_next_utterance(server):
    async with dialled(server, PATH) as socket:
        await socket.send(append("hola."))
        received = await socket.until(OUTPUT)
        await socket.send({"type": "session.update", "session": {"audio": {"output": {"language": "fr"}}}})
        await socket.send(append("adios."), {"type": "session.close"})
        rest, _ = await socket.rest()

    assert text_of(received + rest, OUTPUT) == "en:HOLA fr:ADIOS"


async def test_closing_before_any_audio_is_answered(server):
    async with dialled(server, PATH) as socket:
        await socket.send({"type": "session.close"})
        received, code = await socket.rest()

    assert [event["type"] for event in received] == ["session.created", "session.closed"]
    assert code == 1000


async def test_a_target_that_the_model_does_not_know_is_an_error(server):
    async with dialled(server, PATH + "&target=xx") as socket:
        await socket.send(append("hola."))
        received, code = await socket.rest()

    assert received[-1]["error"]["code"] == "unknown_language"
    assert code == 1008


@pytest.mark.parametrize(
    "message",
    [
        {"type": "input_audio_buffer.append", "audio": spoken("hola")},  # without the prefix "session."
        {"type": "session.input_audio_buffer.append", "audio": 5},
        {"type": "session.update", "session": {"audio": []}},
        {"type": "session.update", "session": {"audio": {"output": {"language": ""}}}},
    ],
)
async def test_what_is_not_accepted_is_an_error_and_the_session_goes_on(server, message):
    async with dialled(server, PATH) as socket:
        await socket.send({**message, "event_id": "mine"}, append("hola."), {"type": "session.close"})
        received, _ = await socket.rest()

    (error,) = [event["error"] for event in received if event["type"] == "error"]
    assert error["event_id"] == "mine"
    assert text_of(received, OUTPUT) == "en:HOLA"


async def test_sessions_do_not_disturb_each_other(server):
    async def translated(number):
        async with dialled(server, PATH) as socket:
            await socket.send(append(f"numero {number}."), {"type": "session.close"})
            return text_of((await socket.rest())[0], OUTPUT)

    said = await asyncio.gather(*map(translated, range(8)))

    assert said == [f"en:NUMERO {number}" for number in range(8)]
