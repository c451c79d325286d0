"""A worker hosts many streams and keeps them apart."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref

import pytest
import torch

from pipeline.config import StreamConfig
from pipeline.errors import ShortMemoryError
from tests.workers.doubles import (
    WORK,
    Forgetful,
    SpellingDecoder,
    letters,
    load_decoder,
    load_encoder,
    loaded,
)
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.host import NICER, SWITCH_SECONDS
from workers.messages import Done, Failed, Flush, Open, Push, Release, Update, WorkerStats
from workers.protocols import Loaded


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


@pytest.mark.parametrize("answer", [WORK, ShortMemoryError("no room"), MemoryError("no room")])
async def test_what_a_stream_had_is_given_back_when_it_fails(answer):
    """At once: it may have failed for want of memory, and nobody knows when the collector comes."""
    held = weakref.WeakSet()

    class Allocation:
        pass

    class Failing(SpellingDecoder):
        def steps(self, event):
            own = Allocation()
            held.add(own)
            yield WORK
            raise RuntimeError("poisoned")

    worker = await started(
        DecoderWorker, lambda: Loaded(Failing, lambda works: [answer for _ in works], (None,))
    )
    await worker.step([Open("a", StreamConfig())])
    gc.disable()
    try:
        reply = await worker.step([Push("a", letters("o"))])
        assert reply.outcomes[0].lost
        # The thread that computes has told of the round before it has left it.
        await worker.narrow(None)
        assert not held
    finally:
        gc.enable()


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

    class Slow(Forgetful):
        def __init__(self, config):
            pass

        def steps(self, data):
            yield WORK
            entered.set()
            assert leave.wait(10)
            return []

    worker = await started(EncoderWorker, lambda: loaded(Slow))
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


class Counter(Forgetful):
    """Does as many pieces of work as it is given bytes, and says in which rounds."""

    def __init__(self, config):
        pass

    def steps(self, data):
        rounds = []
        for _ in data:
            rounds.append((yield WORK))
        return rounds

    def flush_steps(self):
        return []
        yield


async def test_streams_join_and_leave_at_any_round():
    """A short request comes and goes while a long one is under way."""
    rounds, reached, go_on = [], threading.Event(), threading.Event()

    def carry_out(works):
        rounds.append(len(works))
        if len(rounds) == 3:
            reached.set()
            assert go_on.wait(10)
        return [len(rounds)] * len(works)

    worker = await started(EncoderWorker, lambda: Loaded(Counter, carry_out))
    await worker.step([Open("long", StreamConfig()), Open("short", StreamConfig())])
    long = asyncio.create_task(worker.step([Push("long", (b"x" * 2000,)), Flush("long")]))
    await asyncio.to_thread(reached.wait, 10)
    short = asyncio.create_task(worker.step([Push("short", (b"xx",))]))
    await asyncio.sleep(0)
    go_on.set()
    reply = await short

    assert not long.done()
    joined = reply.outcomes[0].items
    assert joined == (joined[0], joined[0] + 1)
    assert joined[0] > 3
    assert [outcome.items[-1:] for outcome in (await long).outcomes] == [(2000,), ()]
    assert sorted(set(rounds)) == [1, 2]
    assert rounds.count(2) == 2


async def test_requests_of_a_stream_keep_their_order_across_calls():
    worker = await started(DecoderWorker, load_decoder)
    await worker.step([Open("a", StreamConfig())])
    replies = await asyncio.gather(
        *(worker.step([Push("a", letters(word))]) for word in ("uno", "dos", "tres"))
    )

    texts = [event.stable for reply in replies for event in reply.outcomes[0].items]
    assert texts == ["unodostres"[:n] for n in range(1, 11)]


async def test_seconds_are_told_once():
    worker = await started(DecoderWorker, load_decoder)
    await worker.step([Open(name, StreamConfig()) for name in "ab"])
    replies = await asyncio.gather(*(worker.step([Push(name, letters("uno"))]) for name in "ab"))

    busy = (await worker.stats()).busy_seconds
    assert 0 < sum(reply.seconds for reply in replies) <= busy


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own elsewhere")
async def test_who_computes_gives_way_to_who_carries():
    """So that a request's way there and back is short while processors are full."""
    interval = sys.getswitchinterval()
    host = DecoderWorker(load_decoder, threads=torch.get_num_threads())
    try:
        await host.start()
        await host.restart()
        computing = await host._in_thread(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        assert computing == min(19, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) + NICER)
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    finally:
        sys.setswitchinterval(interval)
