"""A day in fast-forward: streams come and go, and nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import os

from pipeline.wire.protocol import Limits
from tests.workers.conftest import client, emptied, eventually, running
from workers.access.guard import AccessLimits, Guard
from workers.sessions import LiveStream

ROUNDS, TOGETHER = 15, 20


async def one(url, number):
    start = {"type": "start", "partials": number % 2 == 0, "targets": ["en", "fr"][: 1 + number % 2]}
    async with client(url, start, b"hola. adios..") as speaker:
        if number % 5 == 0:
            speaker.connection.transport.abort()  # vanished
        elif number % 7 == 0:
            await speaker.send(b"!")  # poisoned
            await speaker.rest()
        else:
            await speaker.send({"type": "stop"})
            assert (await speaker.rest())[-1]["type"] == "done"


async def test_nothing_stays_of_streams_that_are_over():
    guard = Guard(limits=AccessLimits(1e6, 1_000, 1_000, 1e9))
    async with running(limits=Limits(resume_seconds=0.01), guard=guard) as server:

        async def stayed():
            await emptied([*server.encoders, *server.decoders])
            registry = server.gateway.registry

            async def forgotten():
                return not registry._streams and not registry._timers and not server.gateway._owners

            await eventually(forgotten)
            gc.collect()
            streams = sum(isinstance(thing, LiveStream) for thing in gc.get_objects())
            return streams, len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))

        await asyncio.gather(*(one(server.url, number) for number in range(TOGETHER)))
        before = await stayed()
        for _ in range(ROUNDS):
            await asyncio.gather(*(one(server.url, number) for number in range(TOGETHER)))
        after = await stayed()
        places = [places._taken for places in (guard._by_key, guard._by_address)]
        pumps = [*server.pool.encoders.pumps, *server.pool.decoders.pumps]

    assert after <= (before[0], before[1] + 1, before[2] + 2)
    assert places == [{}, {}]
    assert [pump.waiting for pump in pumps] == [0, 0]
    assert not any(host._queues for host in (*server.encoders, *server.decoders))
