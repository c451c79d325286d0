"""Real speech by every way into a running server, and out of it to a sink: the same text."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import soxr
from openai import AsyncOpenAI
from websockets.asyncio.client import connect

from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.config import AudioFormat
from pipeline.wire import events
from pipeline.wire.commands import Start
from tests.e2e.test_talk import SURTITLE, serving
from tests.workers.conftest import eventually
from tests.workers.sinks.conftest import Destination
from workers.client import converse


async def pieces(data: bytes, size: int = 32_000):
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def webm(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as out:
        stream = out.add_stream("libopus", rate=48_000, layout="mono", bit_rate=64_000)
        samples = soxr.resample(waveform, 16_000, 48_000).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = 48_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    return file.getvalue()


@pytest.fixture(name="speech", scope="module")
def _speech(recording: Path) -> np.ndarray:
    """The first two sentences, so that all ways together take seconds."""
    return read_audio(recording)[: 16_000 * 7]


async def native(
    url: str, data: bytes, audio: AudioFormat, *sinks: str, source: str = "es"
) -> list[events.Event]:
    start = Start(source, ("en",), audio, partials=False, sinks=sinks)
    return [event async for event in converse(url, start, pieces(data))]


def final(received, kind) -> list[str]:
    return [event.stable for event in received if isinstance(event, kind) and event.final and event.stable]


async def openai(url: str, pcm: bytes, **query: str) -> str:
    """The translation of 24 kHz audio as the official client hears it."""
    client = AsyncOpenAI(api_key="none", base_url=url.replace("ws:", "http:").removesuffix("/stream"))
    translations = client.realtime.translations
    async with translations.connect(model="any", extra_query=query) as connection:
        await connection.session.update(session={"audio": {"output": {"language": "en"}}})
        async for piece in pieces(pcm, 48_000):
            await connection.session.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
        await connection.session.close()
        return "".join([e.delta async for e in connection if e.type == "session.output_transcript.delta"])


async def refusal(url: str, pcm: bytes, language: str) -> str:
    """What the official client is told of a language that the model does not know."""
    client = AsyncOpenAI(api_key="none", base_url=url.replace("ws:", "http:").removesuffix("/stream"))
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        said = {"type": "transcription", "audio": {"input": {"transcription": {"language": language}}}}
        await connection.session.update(session=said)
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[:4_800]).decode())
        async for event in connection:
            if event.type == "error":
                return event.error.message
    raise AssertionError(language)


async def turns(url: str, pcm: bytes) -> list[str]:
    """The transcripts of a transcription session on 24 kHz audio, in the order of its items."""
    client = AsyncOpenAI(api_key="none", base_url=url.replace("ws:", "http:").removesuffix("/stream"))
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        said = {"type": "transcription", "audio": {"input": {"transcription": {"language": "es"}}}}
        await connection.session.update(session=said)
        async for piece in pieces(pcm, 48_000):
            await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
        heard, open_items = [], 0
        async for event in connection:
            open_items += event.type == "input_audio_buffer.speech_started"
            if event.type == "conversation.item.input_audio_transcription.completed":
                heard.append(event.transcript)
                if len(heard) == open_items == 2:
                    return heard
    raise AssertionError(heard)


async def vosk(url: str, pcm: bytes) -> str:
    async with connect(url.replace("/stream", "/vosk/es-ES"), proxy=None) as connection:
        await connection.send('{"config": { "sample_rate": "16000" } }')
        answers = []
        async for piece in pieces(pcm, 8_000):
            await connection.send(piece)
            answers.append(json.loads(await connection.recv()))
        await connection.send('{"eof" : 1 }')
        answers += [json.loads(message) async for message in connection]
    return " ".join(answer["text"] for answer in answers if answer.get("text"))


async def piped(url: str, data: bytes, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(*SURTITLE, "listen", "-", "--url", url, "--from", "es", "--to", "en", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(data)
    assert process.returncode == 0
    return out.decode()


async def test_all_ways_lead_to_the_same_text(speech: np.ndarray, tmp_path: Path):
    wall = Destination()
    settings = tmp_path / "surtitle.toml"
    settings.write_text(f'[[sinks]]\nname = "wall"\nkind = "webhook"\nlanguage = "en"\nurl = "{wall.url}"\n')
    pcm, pcm24 = to_s16le(speech), to_s16le(soxr.resample(speech, 16_000, 24_000)) + bytes(48_000)
    async with serving("--config", str(settings)) as url:
        received = await native(url, pcm, AudioFormat(), "wall")
        transcripts, translations = final(received, events.Transcript), final(received, events.Translation)
        assert len(transcripts) == 2
        assert await vosk(url, pcm) == " ".join(transcripts)
        printed = await piped(url, pcm)
        assert all(line in printed for line in (*transcripts, *translations))

        received = await native(url, pcm24, AudioFormat(sample_rate=24_000))
        assert await openai(url, pcm24, source="es") == " ".join(final(received, events.Translation))
        assert await turns(url, pcm24) == final(received, events.Transcript)
        assert "this model knows " in await refusal(url, pcm24, "xx")
        received = await native(url, pcm24, AudioFormat(sample_rate=24_000), source="auto")
        assert await openai(url, pcm24) == " ".join(final(received, events.Translation))

        received = await native(url, webm(speech), AudioFormat("opus"))
        heard = words(" ".join(final(received, events.Transcript)))
        # Opus is lossy and the bundled model a small one: half of the words have to be the same.
        assert len(set(heard) & set(words(" ".join(transcripts)))) >= len(set(heard)) / 2

        async def all_shown():
            shown = [json.loads(request.body)["text"] for request in wall.requests]
            return " ".join(shown).replace("\n", " ") == " ".join(translations)

        await eventually(all_shown)
    await asyncio.to_thread(wall.close)
