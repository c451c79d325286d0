"""Streams are opened where there is room, resumed by those who may, and let go."""

from __future__ import annotations

import asyncio

import pytest
from websockets.exceptions import ConnectionClosed

from pipeline.wire.commands import Start
from pipeline.wire.protocol import Limits
from tests.workers.conftest import client, emptied, eventually, finals, running
from tests.workers.doubles import load_decoder, load_encoder
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.protocols import StreamError

START = {"type": "start", "partials": False}
STOP = {"type": "stop"}


async def test_streams_spread_over_workers():
    encoders = [EncoderWorker(load_encoder) for _ in range(3)]
    decoders = [DecoderWorker(load_decoder) for _ in range(2)]
    async with running(encoders=encoders, decoders=decoders) as server:
        clients = [client(server.url, START) for _ in range(6)]
        for one in clients:
            await (await one.__aenter__()).receive()
        spread = [(await worker.stats()).streams for worker in (*encoders, *decoders)]
        for one in clients:
            await one.__aexit__(None, None, None)

    assert spread == [2, 2, 2, 3, 3]


async def test_a_stream_beyond_capacity_is_refused_with_a_hint():
    async with running(capacity=1) as server:
        async with client(server.url, START) as first:
            await first.receive()
            async with client(server.url, START) as second:
                (error,) = await second.rest()
            await first.send(STOP)
            await first.rest()
        await emptied([*server.encoders, *server.decoders])
        async with client(server.url, START) as third:
            ready = await third.receive()

    assert (error["code"], error["fatal"]) == ("at_capacity", True)
    assert error["retry_after"] > 0
    assert second.closed_with == 1013
    assert ready["type"] == "ready"


async def test_a_vanished_client_leaves_nothing_behind():
    async with running(limits=Limits(resume_seconds=0.05)) as server:
        async with client(server.url, START, b"hola") as speaker:
            ready = await speaker.receive()
            speaker.connection.transport.abort()
        await emptied([*server.encoders, *server.decoders])

        async def forgotten():
            return server.gateway.registry.get(ready["stream_id"]) is None

        await eventually(forgotten)


async def test_a_client_that_leaves_is_stopped_at_once(server):
    async with client(server.url, START, b"hola") as speaker:
        ready = await speaker.receive()

    await emptied([*server.encoders, *server.decoders])

    last = server.gateway.registry.get(ready["stream_id"]).transcripts[-1]
    assert (last.stable, last.final) == ("hola", True)


async def test_resume_replays_what_was_missed_and_goes_on(server):
    async with client(server.url, START, b"hola.mu", {"type": "mark", "id": "here"}) as speaker:
        ready = await speaker.receive()
        received = await speaker.until("mark")
        speaker.connection.transport.abort()
    known = next(event for event in received if event["type"] == "translation")

    resume = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": known["seq"]}
    async with client(server.url, {"type": "start", "resume": resume}) as speaker:
        replayed = await speaker.until("ready")
        await speaker.send(b"ndo..", b".", STOP)
        rest = await speaker.rest()

    assert [event["seq"] for event in replayed + rest] == list(
        range(known["seq"] + 1, known["seq"] + 1 + len(replayed) + len(rest))
    )
    assert replayed[0]["type"] == "mark"
    assert replayed[-1]["audio_received"] == pytest.approx(7 // 2 / 16_000)
    assert replayed[-1]["token"] == ready["token"]
    assert finals(rest)[0] == ("transcript", 1, "mndo")  # the odd byte "u" has to be sent again


async def test_resume_takes_over_from_a_connection_that_still_stands(server):
    async with client(server.url, START, b"ab") as old:
        ready = await old.receive()
        resume = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": ready["seq"]}
        async with client(server.url, {"type": "start", "resume": resume}) as new:
            assert (await new.until("ready"))[-1]["audio_received"] == 1 / 16_000
            with pytest.raises(ConnectionClosed):
                await old.until("done")
            await new.send(b"cd.", b".", STOP)
            received = await new.rest()

    assert old.closed_with == 4409
    assert finals(received)[0] == ("transcript", 0, "abcd")


@pytest.mark.parametrize("change", [{"token": "wrong"}, {"stream_id": "wrong"}])
async def test_resume_needs_the_right_token(server, change):
    async with client(server.url, START) as speaker:
        ready = await speaker.receive()
        resume = {"stream_id": ready["stream_id"], "token": ready["token"], **change}
        async with client(server.url, {"type": "start", "resume": resume}) as stranger:
            (error,) = await stranger.rest()

    assert error["code"] == "unknown_stream"


async def test_resume_after_the_end_brings_the_end(server):
    async with client(server.url, START, b"hola.", b".", STOP) as speaker:
        received = await speaker.rest()
    ready = received[0]
    resume = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": 1}
    async with client(server.url, {"type": "start", "resume": resume}) as speaker:
        assert await speaker.rest() == received[1:]


@pytest.mark.parametrize("after_seq", [999])
async def test_resume_after_an_event_that_never_was_is_refused(server, after_seq):
    async with client(server.url, START) as speaker:
        ready = await speaker.receive()
        resume = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": after_seq}
        async with client(server.url, {"type": "start", "resume": resume}) as again:
            (error,) = await again.rest()

    assert error["code"] == "bad_message"
    assert "from 0 to 1, got 999" in error["message"]


class SlowDecoder(DecoderWorker):
    """Makes room for streams once told to."""

    def __init__(self):
        super().__init__(load_decoder)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def step(self, batch):
        self.asked.set()
        await self.go.wait()
        return await super().step(batch)


async def test_a_stream_that_is_being_opened_when_the_server_ends_is_not_started():
    decoder = SlowDecoder()
    async with running(decoders=[decoder]) as server:
        opening = asyncio.create_task(server.gateway.registry.open(Start()))
        await decoder.asked.wait()
        await server.gateway.registry.close()
        decoder.go.set()

        with pytest.raises(StreamError, match="shutting down"):
            await opening
        await emptied([*server.encoders, decoder])


async def test_draining_waits_for_streams_and_for_those_who_hear_them():
    async with running() as server:
        async with client(server.url, START, b"hola..") as speaker:
            await speaker.until("translation")
            draining = asyncio.create_task(server.gateway.drain(20))
            await asyncio.sleep(0)
            assert not server.gateway.registry.ready
            async with client(server.url, START) as late:
                (error,) = await late.rest()
            assert not draining.done()
            await speaker.send(STOP)
            assert (await speaker.rest())[-1]["type"] == "done"
        await draining

    assert (error["code"], late.closed_with) == ("shutting_down", 1012)


async def test_draining_takes_so_long_at_most():
    async with running() as server, client(server.url, START, b"hola") as speaker:
        await speaker.receive()
        await server.gateway.drain(0.05)
        await server.gateway.registry.close()
        error = (await speaker.rest())[-1]

    assert (error["code"], error["fatal"], speaker.closed_with) == ("shutting_down", True, 1012)


async def test_every_ready_that_was_missed_tells_the_position_of_now(server):
    """Also that of a connection that broke before bringing it, when audio has come on another since."""
    async with client(server.url, START) as speaker:
        ready = await speaker.receive()
        stream = server.gateway.registry.get(ready["stream_id"])
        speaker.connection.transport.abort()
    resume = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": ready["seq"]}
    for _ in range(2):
        async with client(server.url, {"type": "start", "resume": resume}) as speaker:
            await speaker.receive()  # the client never sees what comes behind the first
            await speaker.send(b"ab")
            received = stream.bytes_received

            async def arrived(before=received):
                return stream.bytes_received == before + 2

            await eventually(arrived)
            speaker.connection.transport.abort()
    async with client(server.url, {"type": "start", "resume": resume}) as speaker:
        told = [await speaker.receive() for _ in range(3)]

    assert [(event["type"], event["bytes_received"]) for event in told] == [("ready", 4)] * 3
