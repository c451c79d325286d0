"""The watchdog expires when work waits and nothing gets done, and never else."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.conftest import client, eventually, running
from tests.workers.doubles import load_decoder, loaded
from tests.workers.test_sessions import Deaf, HeldEncoder
from workers import sessions, watchdog
from workers.decoder import DecoderWorker
from workers.messages import Push
from workers.protocols import StreamError
from workers.watchdog import Watchdog


async def test_work_that_is_not_done_is_an_error():
    dog = Watchdog(0.02)
    dog.fed()

    with pytest.raises(StreamError, match=r"no audio was processed for 0\.02 s") as stalled:
        await dog.guard()
    assert stalled.value.code == "stalled"


async def test_who_has_nothing_to_do_is_left_alone():
    dog = Watchdog(0.02)
    dog.fed()
    dog.moved(waiting=False)
    guard = asyncio.create_task(dog.guard())

    done, _ = await asyncio.wait([guard], timeout=0.1)
    assert not done
    dog.end()
    await guard
    dog.fed()  # too late to matter


async def test_progress_begins_the_time_anew():
    loop, dog = asyncio.get_running_loop(), Watchdog(0.2)
    dog.fed()
    guard = asyncio.create_task(dog.guard())
    begin = loop.time()
    for _ in range(4):
        await asyncio.wait([guard], timeout=0.1)
        dog.moved(waiting=True)
        moved = loop.time()

    with pytest.raises(StreamError):
        await guard
    assert moved - begin >= 0.35
    assert loop.time() - moved >= 0.19


class HeldDecoder(DecoderWorker):
    """Never comes to decode."""

    async def step(self, batch):
        if any(isinstance(request, Push) for request in batch):
            await asyncio.get_running_loop().create_future()
        return await super().step(batch)


@pytest.mark.parametrize("stage", ["encoders", "decoders"])
async def test_a_stream_that_stands_still_says_so_and_ends(monkeypatch, stage):
    """A worker takes work and never answers; a stream without audio beside it lives on."""
    monkeypatch.setattr(watchdog, "STALL_SECONDS", 0.3)
    held = {"encoders": HeldEncoder(lambda: loaded(Deaf)), "decoders": HeldDecoder(load_decoder)}[stage]
    async with running(**{stage: [held]}) as server, client(server.url, {"type": "start"}) as idle:
        async with client(server.url, {"type": "start"}) as speaker:
            await speaker.send(b"hola mundo. ")
            async with asyncio.timeout(20):
                received = await speaker.rest()
        await idle.send({"type": "mark", "id": "still here"})
        await idle.until("mark")

    assert received[-1]["type"] == "error"
    assert received[-1]["code"] == "stalled"
    assert received[-1]["fatal"]


async def test_a_stream_tells_its_watchdog_what_gets_done_and_when_it_is_over(monkeypatch):
    told = []

    class Attentive(Watchdog):
        def fed(self):
            told.append("fed")

        def moved(self, *, waiting):
            told.append("more" if waiting else "all done")

        def end(self):
            told.append("over")
            super().end()

    monkeypatch.setattr(sessions, "Watchdog", Attentive)
    encoder = HeldEncoder(lambda: loaded(Deaf))
    async with running(encoders=[encoder]) as server, client(server.url, {"type": "start"}) as speaker:
        await speaker.send(bytes(32_000), bytes(32_000), {"type": "mark", "id": "both"})
        stream = server.gateway.registry.get((await speaker.receive())["stream_id"])

        async def all_arrived():
            return stream.audio_received == 2

        await eventually(all_arrived)
        encoder.go.set()
        await speaker.until("mark")
        done = told.copy()
        await speaker.send({"type": "stop"})
        await speaker.until("done")

    assert done == ["fed", "fed", "more", "all done"]
    assert told == [*done, "over"]
