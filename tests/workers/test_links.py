"""Links between client and server are cut, reset, slow and dead, at any byte, and nothing is missed."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import struct
from contextlib import asynccontextmanager

import pytest

from pipeline.wire import commands, events
from pipeline.wire.protocol import Limits
from tests.workers.conftest import client, emptied, running
from tests.workers.doubles import loaded
from tests.workers.test_sessions import Deaf, HeldEncoder
from workers.client import converse

TEXT = b"uno dos tres. cuatro cinco. seis siete ocho nueve. " * 6


class Proxy:
    """Carries bytes to a server and back, and harms each link once it has carried so many of them.

    Args:
        port: of the server.
        harms: for each link in turn: after how many bytes, and what is done; then links are good.
    """

    def __init__(self, port, harms):
        self.port, self.harms = port, list(harms)
        self.links = 0
        # Links that hang do so until this is set.
        self.hung = asyncio.Event()

    async def carry(self, reader, writer):
        self.links += 1
        left, harm = self.harms.pop(0) if self.harms else (None, None)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.port)
        budget = [left]

        async def pump(source, drain):
            while data := await source.read(random.choice([1, 7, 100, 4_096])):
                if budget[0] is not None:
                    data = data[: budget[0]]
                    budget[0] -= len(data)
                drain.write(data)
                await drain.drain()
                if budget[0] == 0:
                    if harm == "hang":
                        await self.hung.wait()
                    return
                if harm == "slow":
                    await asyncio.sleep(0)

        pumps = [
            asyncio.create_task(pump(reader, there_writer)),
            asyncio.create_task(pump(there_reader, writer)),
        ]
        _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for end in (writer, there_writer):
            if harm == "reset":
                sock = end.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()


@asynccontextmanager
async def proxied(server, harms):
    proxy = Proxy(int(server.address.rpartition(":")[2]), harms)
    listener = await asyncio.start_server(proxy.carry, "127.0.0.1", 0)
    proxy.url = f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1/stream"
    try:
        yield proxy
    finally:
        proxy.hung.set()
        listener.close()


async def said(url, **options):
    async def speech():
        for start in range(0, len(TEXT), 5):
            yield TEXT[start : start + 5]
            await asyncio.sleep(0)

    return [event async for event in converse(url, commands.Start(partials=False), speech(), **options)]


def finals(received):
    return [(e.type, e.utterance, e.stable) for e in received if isinstance(e, events.UtteranceText)]


@pytest.mark.parametrize("seed", [secrets.randbits(32) for _ in range(3)])
async def test_whatever_happens_to_links_every_event_comes_once(seed):
    rng = random.Random(seed)
    harms = [(rng.randrange(3_000), rng.choice(["cut", "reset", "slow"])) for _ in range(12)]
    async with running() as server:
        undisturbed = await said(server.url)
        # A stream whose ready never came is none that could be come back to.
        async with proxied(server, [(2_000, "cut"), *harms]) as proxy:
            received = await said(proxy.url)
        await emptied([*server.encoders, *server.decoders])

    assert proxy.links > 1
    assert finals(received) == finals(undisturbed)
    assert [event.seq for event in received] == list(range(1, len(received) + 1))
    assert isinstance(received[-1], events.Done)


PINGS = {"ping_seconds": 0.1, "dead_seconds": 0.3}


async def test_links_that_are_dead_but_not_closed_are_noticed_by_the_client():
    """As when a laptop was closed for a while: the server has the stream still when it comes back."""
    async with running() as server:
        undisturbed = await said(server.url)
        async with proxied(server, [(2_000, "hang"), (1_500, "hang")]) as proxy:
            async with asyncio.timeout(20):
                received = await said(proxy.url, **PINGS)

    assert proxy.links == 3
    assert finals(received) == finals(undisturbed)
    assert [event.seq for event in received] == list(range(1, len(received) + 1))


async def test_links_that_are_dead_but_not_closed_are_noticed_by_the_server():
    """The client never comes back, and nothing of it stays; so is it with one who watches."""
    async with running(limits=Limits(resume_seconds=0.05), **PINGS) as server:
        async with (
            proxied(server, [(800, "hang")]) as proxy,
            client(proxy.url, {"type": "start"}) as speaker,
        ):
            ready = await speaker.receive()
            await speaker.send(*[b"hola " * 20] * 40)
            await emptied([*server.encoders, *server.decoders])
            speaker.connection.transport.abort()
        assert ready["type"] == "ready"


async def test_a_client_that_sends_faster_than_it_is_read_from_is_not_dead():
    """Its pongs stand behind its audio, for longer than a link may be silent."""
    encoder = HeldEncoder(lambda: loaded(Deaf))
    async with (
        running(encoders=[encoder], **PINGS) as server,
        client(server.url, {"type": "start"}) as speaker,
    ):
        sending = asyncio.create_task(speaker.send(*[bytes(32_000)] * 300, {"type": "stop"}))
        await asyncio.sleep(1.0)  # three times what a dead link is given
        assert not sending.done()
        encoder.go.set()
        await sending
        received = await speaker.rest()

    assert (received[-1]["type"], received[-1]["audio_seconds"]) == ("done", 300.0)
