"""An EncoderWorker answers audio with speech events."""

from __future__ import annotations

from pipeline.config import StreamConfig
from tests.workers.doubles import END, letters, load_encoder
from workers.encoder import EncoderWorker
from workers.messages import Flush, Open, Push, Update


async def opened(*streams):
    worker = EncoderWorker(load_encoder)
    await worker.start()
    await worker.step([Open(stream, StreamConfig()) for stream in streams])
    return worker


async def test_streams_do_not_mix():
    worker = await opened("a", "b")

    reply = await worker.step([Push("a", (b"u", b"no")), Push("b", (b"x.",)), Flush("a"), Flush("b")])

    heard = [outcome.items for outcome in reply.outcomes]
    assert heard == [letters("uno"), (*letters("x"), END), (END,), ()]


async def test_what_it_cannot_do_fails():
    worker = await opened("a")

    reply = await worker.step([Update("a", ("fr",))])

    assert reply.outcomes[0].code == "internal"
