"""The client sends at real time and shows what comes back."""

from __future__ import annotations

import asyncio
import io
import sys
import time

import numpy as np
import pytest
import soundfile
from rich.console import Console

from pipeline.errors import AudioError
from workers.client import converse, listen
from workers.protocols import StreamError


async def frames(*pieces):
    for piece in pieces:
        yield piece


async def collect(conversing):
    return [event async for event in conversing]


async def conversation(url, start, *pieces):
    return await collect(converse(url, start, frames(*pieces)))


@pytest.fixture(name="recording")
def _recording(tmp_path):
    """A recording whose 16-bit samples spell a text, half a second long."""
    path = tmp_path / "talk.wav"
    text = b"hola mundo" + b" " * 15_980 + b"adios...  "
    soundfile.write(path, np.frombuffer(text, "<i2"), 16_000, subtype="PCM_16")
    return path


async def test_a_conversation_yields_the_events(server):
    received = await conversation(server.url, {"type": "start", "partials": False}, b"ho", b"la..")

    assert [event["type"] for event in received][:3] == ["ready", "transcript", "translation"]
    assert received[-1]["type"] == "done"


async def test_listening_takes_as_long_as_the_recording_and_prints_finals(server, recording):
    output = io.StringIO()
    started = time.monotonic()

    await asyncio.to_thread(listen, recording, url=server.url, console=Console(file=output, width=200))

    assert time.monotonic() - started >= 0.5
    text = output.getvalue()
    assert "es  hola mundo" in text
    assert "en  en:HOLA MUNDO" in text


async def test_a_refused_start_is_an_error(server, recording):
    with pytest.raises(StreamError, match="does not know 'xx'") as caught:
        await asyncio.to_thread(listen, recording, url=server.url, targets=["xx"])

    assert caught.value.code == "unknown_language"


async def test_no_server_is_an_error():
    with pytest.raises(StreamError, match=r"no Surtitle server answers at ws://127\.0\.0\.1:9/"):
        await conversation("ws://127.0.0.1:9/v1/stream", {"type": "start"})


async def test_not_an_address_is_an_error():
    with pytest.raises(StreamError, match="nonsense"):
        await conversation("nonsense", {"type": "start"})


async def test_a_broken_connection_is_an_error(server):
    async def breaking():
        yield b"ho"
        (connection,) = server.listener.connections
        connection.transport.abort()
        await asyncio.Event().wait()

    conversing = converse(server.url, {"type": "start"}, breaking())
    with pytest.raises(StreamError, match="ended before the stream") as caught:
        await collect(conversing)

    assert caught.value.code == "connection_lost"


def test_a_missing_recording_is_an_error(tmp_path):
    with pytest.raises(AudioError, match=r"none\.wav"):
        listen(tmp_path / "none.wav")


async def test_a_microphone_needs_sounddevice(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)

    with pytest.raises(AudioError, match="pip install sounddevice"):
        await asyncio.to_thread(listen, microphone=True, url=server.url)
