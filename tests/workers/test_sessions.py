"""A live stream tells when text lags behind, and never holds half a sample."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pipeline.audio.pcm import to_s16le
from pipeline.wire.events import Ack
from tests.pipeline.audio.test_codecs import FILES, decode, flac
from tests.workers.conftest import client, eventually, finals, running
from tests.workers.doubles import WORK, Forgetful, loaded
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.ledger import Ledger
from workers.messages import Push


class Deaf(Forgetful):
    """Hears nothing in any audio."""

    def __init__(self, config):
        pass

    def steps(self, data):
        yield WORK
        return []

    def flush_steps(self):
        yield WORK
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
    encoder = HeldEncoder(lambda: loaded(Deaf))
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
        def steps(self, data):
            pieces.append(data)
            return super().steps(data)

    start = {"type": "start", "audio": {"encoding": "pcm_f32le", "sample_rate": 8000, "channels": 3}}
    audio = bytes(range(240)) * 4_000
    listening = running(encoders=[EncoderWorker(lambda: loaded(Listening))])
    async with listening as server, client(server.url, start) as speaker:
        cuts = range(0, len(audio), 50_001)
        await speaker.send(*(audio[cut : cut + 50_001] for cut in cuts), {"type": "stop"})
        done = (await speaker.rest())[-1]

    assert b"".join(pieces) == audio
    assert all(len(piece) % 12 == 0 for piece in pieces)
    assert done["audio_seconds"] == len(audio) / 12 / 8000


async def test_what_an_earlier_connection_still_brings_is_dropped(server):
    """Also half a sample of it, which would shift all that follows by a byte."""
    async with client(server.url, {"type": "start"}) as speaker:
        ready = await speaker.receive()
        stream = server.gateway.registry.get(ready["stream_id"])
        speaker.connection.transport.abort()
    resume = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": ready["seq"]}
    async with client(server.url, {"type": "start", "resume": resume}) as speaker:
        again = await speaker.receive()
        await stream.feed(b"x", epoch=1)
        await stream.feed(b"yes", epoch=1)
        await speaker.send(b"hola", b"..", {"type": "stop"})
        received = await speaker.rest()

    assert again["audio_received"] == 0
    assert [e["stable"] for e in received if e["type"] == "transcript" and e["final"]] == ["hola", ""]


async def test_an_error_inside_the_gateway_ends_the_stream_and_says_so(monkeypatch, server, caplog):
    async with client(server.url, {"type": "start"}) as speaker:
        ready = await speaker.receive()
        stream = server.gateway.registry.get(ready["stream_id"])
        monkeypatch.setattr(stream, "_forward", None)
        await speaker.send(b"ho")
        (error,) = await speaker.rest()

    assert (error["code"], error["fatal"]) == ("internal", True)
    assert "TypeError" in caplog.text


class Recorder(Deaf):
    """Keeps the audio that it is given."""

    heard = bytearray()

    def steps(self, data):
        self.heard += data
        return super().steps(data)


@pytest.fixture(name="recorder")
def _recorder():
    return type("Fresh", (Recorder,), {"heard": bytearray()})


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("name", sorted(FILES))
async def test_compressed_audio_reaches_the_encoder_decoded(name, recorder):
    encoding, data = FILES[name]
    encoder = EncoderWorker(lambda: loaded(recorder))
    start = {"type": "start", "audio": {"encoding": encoding}}
    async with running(encoders=[encoder]) as server, client(server.url, start) as speaker:
        await speaker.send(*cut(data, 777), {"type": "stop"})
        done = (await speaker.rest())[-1]

    expected = to_s16le(decode(encoding, data))
    assert bytes(recorder.heard) == expected
    assert done["audio_seconds"] == len(expected) / 32_000


async def test_compressed_audio_goes_on_where_it_broke_off(recorder):
    encoding, data = FILES["webm"]
    encoder = EncoderWorker(lambda: loaded(recorder))
    start = {"type": "start", "audio": {"encoding": encoding}}
    async with running(encoders=[encoder]) as server:
        async with client(server.url, start) as speaker:
            ready = await speaker.receive()
            await speaker.send(data[:5_001], {"type": "mark"})
            await speaker.until("mark")
            speaker.connection.transport.abort()
        resume = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": 0}
        async with client(server.url, {"type": "start", "resume": resume}) as speaker:
            await speaker.until("mark")
            again = (await speaker.until("ready"))[-1]
            await speaker.send(*cut(data[again["bytes_received"] :], 2_000), {"type": "stop"})
            await speaker.rest()

    assert again["bytes_received"] == 5_001
    assert bytes(recorder.heard) == to_s16le(decode(encoding, data))


async def test_a_mark_stands_behind_what_was_decoded(recorder):
    encoding, data = FILES["ogg"]
    encoder = EncoderWorker(lambda: loaded(recorder))
    start = {"type": "start", "audio": {"encoding": encoding}}
    async with running(encoders=[encoder]) as server, client(server.url, start) as speaker:
        await speaker.send(data, {"type": "flush"}, {"type": "mark"})
        mark = (await speaker.until("mark"))[-1]

    assert mark["audio_time"] == pytest.approx(1.5, abs=0.05)


async def test_what_is_no_opus_ends_its_stream_alone():
    start = {"type": "start", "audio": {"encoding": "opus"}}
    async with running() as server, client(server.url, {"type": "start"}) as other:
        for noise in (b"RIFF" + bytes(100), b"OggS" + bytes(3_000), b"\x1a\x45\xdf\xa3" + b"\xff" * 3_000):
            async with client(server.url, start) as speaker:
                await speaker.send(noise, {"type": "stop"})
                error = (await speaker.rest())[-1]
                assert (error["type"], error["code"], error["fatal"]) == ("error", "bad_audio", True)
                assert speaker.closed_with == 1008
        await other.send(b"hola.\0"[:5], b".", {"type": "stop"})
        assert finals(await other.rest())


async def test_seconds_of_flac_in_a_few_bytes_are_decoded_as_there_is_room():
    """Ten hours of silence are 700 KB of FLAC and 1.2 GB of PCM."""
    encoder = HeldEncoder(lambda: loaded(Deaf))
    start = {"type": "start", "audio": {"encoding": "flac"}}
    bomb = flac(np.zeros((16_000 * 600, 1), np.float32))
    async with running(encoders=[encoder]) as server, client(server.url, start) as speaker:
        ready = await speaker.receive()
        await speaker.send(*cut(bomb, 60_000))
        stream = server.gateway.registry.get(ready["stream_id"])

        async def full():
            return stream.audio_received > 10

        await eventually(full)
        encoder.go.set()
        await speaker.send({"type": "stop"})
        received = await speaker.rest()

    assert received[-1]["audio_seconds"] == 600


class Pausing(Recorder):
    """Is always between two utterances; another one can go on anywhere."""

    def checkpoint(self):
        return len(self.heard)

    def resume(self, checkpoint):
        assert checkpoint == len(self.heard)


@pytest.mark.parametrize("name", ["webm", "flac"])
async def test_compressed_audio_comes_again_to_another_gateway_and_is_heard_once(name):
    """From its first byte, for no other place is known at which it could be decoded."""
    encoding, data = FILES[name]
    pausing = type("Fresh", (Pausing,), {"heard": bytearray()})
    ledger = Ledger()
    start = {"type": "start", "audio": {"encoding": encoding}}
    async with (
        running(encoders=[EncoderWorker(lambda: loaded(pausing))], ledger=ledger) as first,
        running(encoders=[EncoderWorker(lambda: loaded(pausing))], ledger=ledger) as second,
    ):
        frames = [data[at : at + 1_000] for at in range(0, len(data), 1_000)]
        most = frames[: len(frames) * 3 // 4]
        async with client(first.url, start, *most, {"type": "mark"}) as speaker:
            ready = (await speaker.until("mark"))[0]
            before = len(pausing.heard)
            speaker.connection.transport.abort()
        resume = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": ready["seq"]}
        async with client(second.url, {"type": "start", "resume": resume}) as speaker:
            again = (await speaker.until("ready"))[-1]
            await speaker.send(*frames, {"type": "stop"})
            done = (await speaker.rest())[-1]

    assert 0 < before < len(pausing.heard)
    assert again["bytes_received"] == 0
    whole = decode(encoding, data)
    assert bytes(pausing.heard) == to_s16le(whole)
    assert done["audio_seconds"] == len(whole) / 16_000


async def test_acknowledgements_wait_until_another_gateway_could_go_on_from_there():
    """A client may forget what they cover, so nobody may want it again."""

    class Silent(Deaf):
        def __init__(self, config):
            self.pieces = 0

        def checkpoint(self):
            return self.pieces if self.pieces % 3 == 0 else None

        def steps(self, data):
            self.pieces += 1
            yield WORK
            return [self.pieces]

    class Acknowledging(Forgetful):
        def __init__(self, config):
            pass

        def checkpoint(self):
            return b"between utterances"

        def steps(self, event):
            yield WORK
            return [Ack(audio_time=float(event))]

    async with (
        running(
            encoders=[EncoderWorker(lambda: loaded(Silent))],
            decoders=[DecoderWorker(lambda: loaded(Acknowledging))],
            ledger=Ledger(),
        ) as server,
        client(server.url, {"type": "start"}) as speaker,
    ):
        received = []
        for _ in range(7):
            await speaker.send(bytes(32_000), {"type": "mark"})
            received += await speaker.until("mark")

    assert [event["audio_time"] for event in received if event["type"] == "ack"] == [3.0, 6.0]
