"""A server whose streams tell when somebody speaks, for dialects that turn utterances into items."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pipeline.wire import events
from tests.workers.conftest import Client, running
from tests.workers.doubles import END, SpellingDecoder, SpellingEncoder, loaded
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker


class HearingEncoder(SpellingEncoder):
    """A spelling encoder to which zeros are silence."""

    def steps(self, data):
        return super().steps(data.replace(b"\0", b""))


class SpeakingDecoder(SpellingDecoder):
    """A spelling decoder with the events of the voice gate, as the real one sends them."""

    def steps(self, event):
        about = {"utterance": self.utterance, "time": self.position / 32_000}
        opened = event != END and not self.text
        told = yield from super().steps(event)
        if event == END:
            return [events.SpeechEnd(**about), *told]
        return [events.SpeechStart(**about), *told] if opened else told


class Socket(Client):
    """A connection in some dialect: JSON both ways, audio as it is."""

    async def receive(self):
        async with asyncio.timeout(20):
            return await super().receive()

    async def until(self, wanted):
        """Messages up to the first of that type or with that key, this one included."""
        received = [await self.receive()]
        while received[-1].get("type") != wanted and wanted not in received[-1]:
            received.append(await self.receive())
        return received

    async def rest(self):
        """Messages to the end, and the close code."""
        received = []
        try:
            while True:
                received.append(await self.receive())
        except ConnectionClosed:
            return received, self.connection.close_code


@pytest.fixture(name="server")
async def _server():
    encoders = [EncoderWorker(lambda: loaded(HearingEncoder))]
    decoders = [DecoderWorker(lambda: loaded(SpeakingDecoder))]
    async with running(encoders=encoders, decoders=decoders) as server:
        yield server


@asynccontextmanager
async def dialled(server, path, **options):
    async with connect(f"ws://{server.address}{path}", proxy=None, **options) as connection:
        yield Socket(connection)


def spoken(text, silence=0):
    """Text as "audio" in base64: whole 16-bit samples, with at least so many bytes of silence behind it."""
    return base64.b64encode(text.encode() + bytes(silence + len(text) % 2)).decode()
