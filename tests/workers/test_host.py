"""A worker hosts many streams and keeps them apart."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from pipeline.config import StreamConfig
from tests.workers.doubles import letters, load_decoder, load_encoder
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.messages import Done, Failed, Open, Push, Release, Update, WorkerStats


async def started(kind, load, **options):
    worker = kind(load, **options)
    await worker.start()
    return worker


async def test_a_poisoned_stream_fails_alone():
    worker = await started(DecoderWorker, load_decoder)
    await worker.step([Open("a", StreamConfig()), Open("b", StreamConfig())])

    reply = await worker.step([Push("a", letters("secret!")), Push("b", letters("ok"))])

    assert reply.outcomes[0] == Failed("internal", "the stream failed with an internal error (RuntimeError)")
    assert len(reply.outcomes[1].items) == 2
    assert await worker.stats() == WorkerStats(1, 2, 4, 1, pytest.approx(0, abs=5))


async def test_a_language_the_model_does_not_know_opens_nothing():
    worker = await started(DecoderWorker, load_decoder)

    reply = await worker.step([Open("a", StreamConfig(targets=("xx",)))])

    assert reply.outcomes[0].code == "unknown_language"
    assert (await worker.stats()).streams == 0


async def test_a_refused_update_does_not_lose_the_stream():
    worker = await started(DecoderWorker, load_decoder)
    await worker.step([Open("a", StreamConfig())])

    reply = await worker.step([Update("a", ("xx",)), Push("a", letters("o"))])

    assert (reply.outcomes[0].code, reply.outcomes[0].lost) == ("unknown_language", False)
    assert len(reply.outcomes[1].items) == 1


async def test_an_unknown_stream_was_lost():
    worker = await started(EncoderWorker, load_encoder)

    reply = await worker.step([Push("a", (b"x",)), Release("a")])

    assert [getattr(outcome, "code", None) for outcome in reply.outcomes] == ["worker_lost", None]


async def test_credits_are_the_places_left():
    worker = await started(EncoderWorker, load_encoder, capacity=2)

    opened = await worker.step([Open(name, StreamConfig()) for name in "abc"])
    released = await worker.step([Release("a"), Release("nobody")])

    assert [type(outcome) for outcome in opened.outcomes] == [Done, Done, Failed]
    assert opened.outcomes[2].code == "at_capacity"
    assert (opened.credits, released.credits) == (0, 1)


async def test_health_is_answered_while_a_batch_is_at_work():
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, config):
            pass

        def push(self, data):
            entered.set()
            assert leave.wait(10)
            return []

    worker = await started(EncoderWorker, lambda: Slow)
    await worker.step([Open("a", StreamConfig())])
    stepping = asyncio.create_task(worker.step([Push("a", (b"x",))]))
    await asyncio.to_thread(entered.wait, 10)

    await worker.check_health()
    assert not stepping.done()

    leave.set()
    assert (await stepping).outcomes == [Done()]


async def test_start_loads_once_and_sets_threads():
    loads = []

    def load():
        loads.append(torch.get_num_threads())
        return load_encoder()

    before = torch.get_num_threads()
    worker = EncoderWorker(load, threads=1)
    try:
        await asyncio.gather(worker.start(), worker.start())
    finally:
        torch.set_num_threads(before)

    assert loads == [1]


async def test_nothing_opens_before_start():
    reply = await EncoderWorker(load_encoder).step([Open("a", StreamConfig())])

    assert reply.outcomes[0].code == "worker_lost"
