"""Workers in processes of their own, on a real local Ray."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial

import pytest

from pipeline.config import StreamConfig
from pipeline.errors import CheckpointError
from tests.workers.conftest import client, eventually, running
from tests.workers.doubles import END, load_decoder, load_encoder
from workers.access.identity import NOBODY
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.ledger import Title, Verdict, Write
from workers.messages import Done, Open, Push
from workers.placement import RayLedger, RayWorker, place_of
from workers.protocols import WorkerLostError

pytestmark = pytest.mark.usefixtures("ray")


def ray_worker(host, load, **options):
    return RayWorker(host, load, **{"capacity": 8, "threads": 1, **options})


async def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def load_nothing():
    raise CheckpointError("no such model; a model is a folder")


async def test_a_worker_answers_from_another_process():
    worker = ray_worker(EncoderWorker, load_encoder, capacity=3)

    info = await worker.start()
    reply = await worker.step([Open("a", StreamConfig()), Push("a", (b"o.",))])

    assert info.pid != os.getpid()
    assert info.credits == 3
    assert list(reply.outcomes) == [Done(), Done((("letter", "o"), END), "closed")]
    assert reply.credits == 2
    assert (await worker.stats()).requests == 2


async def test_a_model_that_cannot_be_loaded_is_said_so():
    with pytest.raises(CheckpointError, match="no such model"):
        await ray_worker(EncoderWorker, load_nothing).start()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_is_lost_begins_anew_in_another_process(fault):
    worker = ray_worker(EncoderWorker, load_encoder)
    info = await worker.start()
    await worker.step([Open("a", StreamConfig())])

    os.kill(info.pid, fault)
    again = await worker.restart()

    assert again.pid != info.pid
    assert again.credits == 8
    assert (await worker.step([Open("a", StreamConfig())])).outcomes[0] == Done()
    await eventually(partial(gone, info.pid))


async def test_a_call_to_a_killed_worker_fails_at_once():
    worker = ray_worker(EncoderWorker, load_encoder)
    os.kill((await worker.start()).pid, signal.SIGKILL)

    async def ask_until_it_fails():
        while True:
            await worker.check_health()

    async with asyncio.timeout(1):
        with pytest.raises(WorkerLostError):
            await ask_until_it_fails()


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


def test_places_are_reserved_on_a_cluster_alone(monkeypatch):
    """tests/k8s/test_nodes.py joins one."""
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert place_of("encoder") == {}

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert place_of("encoder") == {"surtitle_encoder": 1.0}


async def test_gateways_have_one_ledger_which_starts_anew_when_its_process_dies():
    first, second = RayLedger(), RayLedger()
    title = Title("hall", "token", b"", 9.0)

    assert await first.write([Write("s", 1, (), title, whole=True)]) == [Verdict.WRITTEN]
    assert (await second.claim("s", "token", "hall")).epoch == 2
    assert await first.write([Write("s", 1)]) == [Verdict.FENCED]
    assert await first.put_ticket("key", NOBODY, 9.0, once=True)
    assert [await second.take_ticket("key"), await first.take_ticket("key")] == [NOBODY, None]

    (pid,) = [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and _title(name).startswith(b"ray::Ledger") and _is_ours(name)
    ]
    os.kill(pid, signal.SIGKILL)

    async def empty():
        try:
            return await second.read("s", 0, 0.0) is None
        except WorkerLostError:
            return False

    await eventually(empty)


def _title(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _is_ours(pid):
    """Whether a process is of the Ray of this test, and of no other on the machine."""
    while pid not in ("0", "1", str(os.getpid())):
        try:
            with open(f"/proc/{pid}/stat") as file:
                pid = file.read().rsplit(")", 1)[1].split()[1]
        except OSError:
            return False
    return pid == str(os.getpid())
