"""A live stream tells when text lags behind, and never holds half a sample."""

from __future__ import annotations

import asyncio

from tests.workers.conftest import client, eventually, running
from workers.encoder import EncoderWorker
from workers.messages import Push


class Deaf:
    """Hears nothing in any audio."""

    def __init__(self, config):
        pass

    def push(self, data):
        return []

    def flush(self):
        return []


class HeldEncoder(EncoderWorker):
    """Encodes once told to."""

    def __init__(self, load):
        super().__init__(load)
        self.go = asyncio.Event()

    async def step(self, batch):
        if any(isinstance(request, Push) for request in batch):
            await self.go.wait()
        return await super().step(batch)


async def test_lag_is_told_when_it_begins_and_when_it_ends():
    encoder = HeldEncoder(lambda: Deaf)
    async with running(encoders=[encoder]) as server, client(server.url, {"type": "start"}) as speaker:
        await speaker.send(*[bytes(32_000)] * 5, {"type": "mark"})
        ready = await speaker.receive()
        stream = server.gateway.registry.get(ready["stream_id"])

        async def all_arrived():
            return stream.audio_received == 5

        await eventually(all_arrived)
        encoder.go.set()
        received = await speaker.until("mark")

    statuses = [event for event in received if event["type"] == "status"]
    assert [status["behind"] for status in statuses] == [4.0, 0.0]
    assert {status["action"] for status in statuses} == {"none"}
    assert received[-1]["audio_time"] == 5.0


async def test_frames_of_many_channels_are_kept_whole():
    pieces = []

    class Listening(Deaf):
        def push(self, data):
            pieces.append(data)
            return []

    start = {"type": "start", "audio": {"encoding": "pcm_f32le", "sample_rate": 8000, "channels": 3}}
    audio = bytes(range(240)) * 4_000
    listening = running(encoders=[EncoderWorker(lambda: Listening)])
    async with listening as server, client(server.url, start) as speaker:
        cuts = range(0, len(audio), 50_001)
        await speaker.send(*(audio[cut : cut + 50_001] for cut in cuts), {"type": "stop"})
        done = (await speaker.rest())[-1]

    assert b"".join(pieces) == audio
    assert all(len(piece) % 12 == 0 for piece in pieces)
    assert done["audio_seconds"] == len(audio) / 12 / 8000


async def test_an_error_inside_the_gateway_ends_the_stream_and_says_so(monkeypatch, server, caplog):
    async with client(server.url, {"type": "start"}) as speaker:
        ready = await speaker.receive()
        stream = server.gateway.registry.get(ready["stream_id"])
        monkeypatch.setattr(stream, "_forward", None)
        await speaker.send(b"ho")
        (error,) = await speaker.rest()

    assert (error["code"], error["fatal"]) == ("internal", True)
    assert "TypeError" in caplog.text
