"""A Pump carries everything for a worker in few calls, and each stream's requests in their order."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from tests.workers.conftest import eventually
from workers.messages import Done, Flush, Push, Reply, WorkerInfo
from workers.protocols import WorkerLostError
from workers.pump import BEAT_SECONDS, CALL_BYTES, CALLS, Pump, payload_bytes


class HeldWorker:
    """Answers each request with itself when told to, the calls in their order."""

    def __init__(self):
        self.calls = []
        self.starts = 0
        self.go = asyncio.Semaphore(0)
        self.faults = []

    async def start(self):
        self.starts += 1
        return WorkerInfo(pid=0, credits=8)

    restart = start

    async def check_health(self):
        pass

    async def step(self, batch):
        self.calls.append(list(batch))
        await self.go.acquire()
        if self.faults:
            raise self.faults.pop()
        return Reply([Done((request,)) for request in batch], credits=7, seconds=0.0)


@asynccontextmanager
async def pumping(worker, **options):
    pump = Pump("encoder 0", worker, **{"tick": 0.0, **options})
    await pump.start()
    task = asyncio.create_task(pump.run())
    try:
        yield pump
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def ask(pump, *requests):
    return [asyncio.create_task(pump.request(request)) for request in requests]


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_requests_that_come_together_share_a_call():
    worker = HeldWorker()
    async with pumping(worker) as pump:
        asked = ask(pump, Flush("a"), Flush("b"), Flush("a"))
        await settle()
        worker.go.release()
        outcomes = await asyncio.gather(*asked)

    assert worker.calls == [[Flush("a"), Flush("b"), Flush("a")]]
    assert [outcome.items[0].stream for outcome in outcomes] == ["a", "b", "a"]
    assert pump.credits == 7


async def test_a_stream_has_requests_in_one_call_at_a_time():
    """Others do not wait for it."""
    worker = HeldWorker()
    async with pumping(worker) as pump:
        asked = ask(pump, Flush("a"))
        await settle()
        asked += ask(pump, Push("a", (b"1",)), Flush("b"), Push("a", (b"2",)))
        await settle()
        assert worker.calls == [[Flush("a")], [Flush("b")]]
        for _ in range(3):
            worker.go.release()
        await asyncio.gather(*asked)

    assert worker.calls[2:] == [[Push("a", (b"1",)), Push("a", (b"2",))]]


async def test_only_a_few_calls_are_out():
    worker = HeldWorker()
    async with pumping(worker) as pump:
        asked = []
        for number in range(CALLS + 3):
            asked += ask(pump, Flush(str(number)))
            await settle()
        assert len(worker.calls) == CALLS
        worker.go.release()
        await settle()
        assert worker.calls[CALLS] == [Flush(str(number)) for number in range(CALLS, CALLS + 3)]
        for _ in range(CALLS):
            worker.go.release()
        await asyncio.gather(*asked)


async def test_a_call_stays_below_the_inline_limit():
    worker = HeldWorker()
    requests = [Push(str(number), (bytes(30_000),)) for number in range(7)]
    async with pumping(worker) as pump:
        asked = ask(pump, *requests)
        for _ in range(3):
            await settle()
            worker.go.release()
        await asyncio.gather(*asked)

    assert [len(call) for call in worker.calls] == [3, 3, 1]
    assert all(sum(map(payload_bytes, call)) <= CALL_BYTES for call in worker.calls)
    assert [request for call in worker.calls for request in call] == requests


async def test_a_request_larger_than_a_call_travels_alone():
    worker = HeldWorker()
    worker.go.release()
    async with pumping(worker) as pump:
        await pump.request(Push("a", (bytes(2 * CALL_BYTES),)))

    assert len(worker.calls) == 1


async def test_soft_tokens_count_as_payload():
    tokens = SimpleNamespace(tokens=np.zeros((4, 16), np.float32))

    assert payload_bytes(Push("a", (tokens, "event"))) == 256
    assert payload_bytes(Flush("a")) == 0


async def test_a_request_whose_asker_has_gone_is_not_carried():
    worker = HeldWorker()
    async with pumping(worker) as pump:
        ask(pump, Flush("a"))
        await settle()
        (gone,) = ask(pump, Push("a", (b"gone",)))
        (stays,) = ask(pump, Flush("a"))
        await settle()
        gone.cancel()
        worker.go.release()
        worker.go.release()
        await stays

    assert worker.calls[1] == [Flush("a")]


@pytest.mark.parametrize("fault", [WorkerLostError("killed"), TimeoutError()])
async def alive(pump):
    async def is_alive():
        return pump.alive

    await eventually(is_alive)


@pytest.mark.parametrize("fault", [WorkerLostError("killed"), TimeoutError()])
async def test_a_lost_worker_fails_what_was_under_way_and_is_started_again(fault):
    worker, losses = HeldWorker(), []
    worker.faults = [fault]
    async with pumping(worker, lost=lambda: losses.append(1)) as pump:
        asked = ask(pump, Flush("a"))
        await settle()
        asked += ask(pump, Flush("b"))
        await settle()
        worker.go.release()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [WorkerLostError, WorkerLostError]

        await alive(pump)
        worker.go.release()
        assert (await pump.request(Flush("c"))).items == (Flush("c"),)

    assert worker.starts == 2
    assert losses == [1]


class Stopped(HeldWorker):
    """Gives no sign of life until it is started anew."""

    async def check_health(self):
        if self.starts == 1:
            await asyncio.Event().wait()


async def test_a_worker_without_a_sign_of_life_is_lost_also_when_nothing_is_under_way():
    worker = Stopped()
    async with pumping(worker, silence=0.05) as pump:
        (asked,) = ask(pump, Flush("a"))
        with pytest.raises(WorkerLostError, match="was lost"):
            await asked
        await alive(pump)

    assert worker.starts == 2


async def test_a_pause_of_this_process_is_no_loss():
    """When it goes on, the answers of all workers are late, though they had come."""

    class Late(HeldWorker):
        async def check_health(self):
            time.sleep(0.5)  # noqa: ASYNC251 - this is the pause
            await asyncio.sleep(0.001)

    worker = Late()
    async with pumping(worker, silence=0.05) as pump:
        worker.go.release()
        await pump.request(Flush("a"))
        for _ in range(3):
            await asyncio.sleep(BEAT_SECONDS)
        assert pump.alive

    assert worker.starts == 1


async def test_what_is_asked_of_a_lost_worker_fails_at_once():
    worker = HeldWorker()
    pump = Pump("encoder 0", worker)
    with pytest.raises(WorkerLostError, match="encoder 0 is lost"):
        await pump.request(Flush("a"))


async def test_a_worker_that_does_not_answer_is_lost():
    async with pumping(HeldWorker(), timeout=0.01) as pump:
        with pytest.raises(WorkerLostError):
            await pump.request(Flush("a"))


async def test_a_worker_is_tried_until_it_starts():
    class Stubborn(HeldWorker):
        async def restart(self):
            if self.starts in (1, 2):
                self.starts += 1
                assert not pump.alive
                raise WorkerLostError("not yet")
            return await self.start()

    worker = Stubborn()
    worker.faults = [WorkerLostError("killed")]
    async with pumping(worker, patience=0.001) as pump:
        worker.go.release()
        with pytest.raises(WorkerLostError):
            await pump.request(Flush("a"))
        await alive(pump)

    assert worker.starts == 4


async def test_release_needs_no_waiting_for_and_survives_a_lost_worker():
    worker = HeldWorker()
    worker.faults = [WorkerLostError("killed")]
    async with pumping(worker) as pump:
        pump.release("a")
        worker.go.release()

        async def lost():
            return worker.starts == 2 and pump.alive

        await eventually(lost)
        worker.go.release()
        await pump.request(Flush("b"))
