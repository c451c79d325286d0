"""A gateway on loopback whose workers are plain objects in this process."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pipeline.wire.protocol import Limits
from tests.workers.doubles import load_decoder, load_encoder
from workers.bookkeeper import Bookkeeper
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.gateway import Gateway
from workers.metrics import Metrics
from workers.pool import run_pool

DEFAULT_LIMITS = Limits()
SPELLING = {"model": "spelling", "languages": ("es", "en", "fr", "de"), "context": True}


async def eventually(condition, seconds=20):
    """Wait for something that happens elsewhere: in another process, in the kernel, on a timer."""
    async with asyncio.timeout(seconds):
        while not (outcome := await condition()):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
    return outcome


@asynccontextmanager
async def running(
    *,
    encoders=None,
    decoders=None,
    capacity=32,
    limits=DEFAULT_LIMITS,
    ledger=None,
    tracing=None,
    **options,
):
    """Run a server; yields its ``url``, ``http`` address, ``gateway``, ``listener``, workers.

    Servers with the same ``ledger`` are gateways of one cluster.
    """
    encoders = encoders or [EncoderWorker(load_encoder, capacity=capacity)]
    decoders = decoders or [DecoderWorker(load_decoder, capacity=capacity)]
    metrics = Metrics()
    async with (
        run_pool(encoders, decoders, metrics, tick=0.0, tracing=tracing) as pool,
        keeping(ledger, metrics) as keeper,
    ):
        options = {"limits": limits, "keeper": keeper, "tracing": tracing, **SPELLING, **options}
        gateway = Gateway(pool.encoders, pool.decoders, metrics=metrics, **options)
        sock = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        async with gateway.serve(sock) as server:
            yield SimpleNamespace(
                url=f"ws://{address}/v1/stream",
                address=address,
                http=f"http://{address}",
                gateway=gateway,
                pool=pool,
                listener=server,
                metrics=metrics,
                encoders=encoders,
                decoders=decoders,
            )


@asynccontextmanager
async def keeping(ledger, metrics):
    """A bookkeeper at work, quick to give a ledger up."""
    if ledger is None:
        yield None
        return
    keeper = Bookkeeper(ledger, metrics, answer_seconds=0.3, touch_seconds=0.2, retry_seconds=0.05)
    writing = asyncio.create_task(keeper.run())
    yield keeper
    writing.cancel()


class Client:
    """A connection that speaks JSON."""

    def __init__(self, connection):
        self.connection = connection

    async def send(self, *messages):
        for message in messages:
            await self.connection.send(json.dumps(message) if isinstance(message, dict) else message)

    async def receive(self):
        return json.loads(await self.connection.recv())

    async def until(self, kind):
        """Events up to the first of a type, that one included."""
        received = [await self.receive()]
        while received[-1]["type"] != kind:
            received.append(await self.receive())
        return received

    async def rest(self):
        """Events to the end of the connection."""
        received = []
        with suppress(ConnectionClosed):
            async for message in self.connection:
                received.append(json.loads(message))
        return received

    @property
    def closed_with(self):
        return self.connection.close_code


@asynccontextmanager
async def client(url, *messages, **options):
    async with connect(url, proxy=None, compression=None, **options) as connection:
        speaker = Client(connection)
        await speaker.send(*messages)
        yield speaker


def finals(received):
    return [(e["type"], e["utterance"], e["stable"]) for e in received if e.get("final")]


async def emptied(workers):
    """Wait until no worker holds a stream."""

    async def empty():
        return not any([(await worker.stats()).streams for worker in workers])

    await eventually(empty)


@pytest.fixture(name="server")
async def _server():
    async with running() as server:
        yield server


@pytest.fixture(name="ray", scope="session")
def _ray():
    """A real Ray; started once, for its start takes seconds."""
    from workers import placement

    placement.start_local()
    yield
    placement.stop_local()
