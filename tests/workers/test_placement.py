"""Workers in processes of their own, on a real local Ray."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

import pytest

from pipeline.config import StreamConfig
from pipeline.errors import CheckpointError
from tests.workers.conftest import client, eventually, running
from tests.workers.doubles import END, load_decoder, load_encoder
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.messages import Done, Open, Push
from workers.placement import RayWorker
from workers.protocols import WorkerLostError

pytestmark = pytest.mark.usefixtures("ray")


def ray_worker(host, load, **options):
    return RayWorker(host, load, **{"capacity": 8, "threads": 1, **options})


def load_nothing():
    raise CheckpointError("no such model; a model is a folder")


async def test_a_worker_answers_from_another_process():
    worker = ray_worker(EncoderWorker, load_encoder, capacity=3)

    info = await worker.start()
    reply = await worker.step([Open("a", StreamConfig()), Push("a", (b"o.",))])

    assert info.pid != os.getpid()
    assert info.credits == 3
    assert list(reply.outcomes) == [Done(), Done((("letter", "o"), END))]
    assert reply.credits == 2
    assert (await worker.stats()).requests == 2


async def test_a_model_that_cannot_be_loaded_is_said_so():
    with pytest.raises(CheckpointError, match="no such model"):
        await ray_worker(EncoderWorker, load_nothing).start()


async def test_a_killed_worker_is_lost_and_can_be_started_again():
    worker = ray_worker(EncoderWorker, load_encoder)
    info = await worker.start()

    os.kill(info.pid, signal.SIGKILL)

    async def lost():
        try:
            await worker.check_health()
        except WorkerLostError:
            return True
        return False

    async def started_again():
        with suppress(WorkerLostError):
            return await worker.start()

    await eventually(lost)
    assert (await eventually(started_again)).pid != info.pid
    assert (await worker.step([Open("a", StreamConfig())])).outcomes[0] == Done()


async def test_streams_through_processes():
    encoders = [ray_worker(EncoderWorker, load_encoder)]
    decoders = [ray_worker(DecoderWorker, load_decoder), ray_worker(DecoderWorker, load_decoder)]

    async def speak(server, name):
        start = {"type": "start", "partials": False}
        async with client(server.url, start, f"{name * 2}..".encode(), {"type": "stop"}) as speaker:
            return [event["stable"] for event in await speaker.rest() if event.get("final")]

    async with running(encoders=encoders, decoders=decoders) as server:
        names = ["uno", "dos", "tres", "cuatro"]
        texts = await asyncio.gather(*(speak(server, name) for name in names))
        requests = [(await worker.stats()).requests for worker in decoders]

    assert [text[:2] for text in texts] == [[name * 2, f"en:{name.upper() * 2}"] for name in names]
    assert all(requests)  # both decoders took streams


async def test_a_stream_on_a_killed_worker_ends_with_an_error_and_the_next_goes_on():
    encoder = ray_worker(EncoderWorker, load_encoder)
    decoder = ray_worker(DecoderWorker, load_decoder)
    async with running(encoders=[encoder], decoders=[decoder]) as server:
        async with client(server.url, {"type": "start"}, b"ho") as speaker:
            await speaker.until("transcript")
            os.kill((await decoder.start()).pid, signal.SIGKILL)
            await speaker.send(b"la")
            error = (await speaker.rest())[-1]

        async def ready():
            return server.gateway.registry.ready

        await eventually(ready)
        async with client(server.url, {"type": "start"}, b"hola", {"type": "stop"}) as speaker:
            received = await speaker.rest()

    assert (error["code"], error["fatal"]) == ("worker_lost", True)
    assert received[-1]["type"] == "done"
