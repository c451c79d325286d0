"""Everything for one worker in one call per tick.

A call to another process costs the same for one stream's chunk as for forty (0.9 ms of CPU with Ray),
so requests that arrive within a tick travel together. A few calls may be out at a time, for a worker batches
what they bring and answers each when its own requests are done; but never two with requests of one stream:
that keeps every stream's order without numbering its requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import SurtitleError
from workers.messages import Outcome, Push, Release, Reply, Request
from workers.protocols import Worker, WorkerLostError

CALL_BYTES = 96 * 1024
"""Most payload of one call: beyond about 100 KB, Ray goes through its object store, at twice the latency."""

CALLS = 4
"""Most calls that are out at a time."""

logger = logging.getLogger(__name__)


class Pump:
    """Carries requests of many streams to one worker.

    Args:
        name: for logs and metrics.
        worker: where the requests go.
        tick: least seconds from one call to the next; an idle worker is called at once.
        timeout: seconds after which a call without reply means that the worker is lost.
        patience: seconds between two attempts to start a worker that was lost.
        observe: told of every call: requests in it, seconds that the worker was busy with it.
    """

    def __init__(
        self,
        name: str,
        worker: Worker,
        *,
        tick: float = 0.02,
        timeout: float = 60.0,
        patience: float = 1.0,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self.name = name
        self.worker = worker
        # Whether the worker has started and was not lost since.
        self.alive = False
        # How many more streams the worker takes, as it last said; 0 while it is not alive.
        self.credits = 0
        self._tick = tick
        self._timeout = timeout
        self._patience = patience
        self._observe = observe
        self._waiting: deque[tuple[Request[Any], asyncio.Future[Outcome]]] = deque()
        # Requests in each call that is out.
        self._out: dict[asyncio.Task[None], list[tuple[Request[Any], asyncio.Future[Outcome]]]] = {}
        self._loss: WorkerLostError | TimeoutError | None = None
        # Set when a request came, a call came back, or the worker was lost.
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Start the worker.

        Raises:
            WorkerLostError: it could not be started.
        """
        self.credits = (await self.worker.start()).credits
        self.alive = True

    async def request(self, request: Request[Any]) -> Outcome:
        """Carry one request there and its outcome back.

        Raises:
            WorkerLostError: the worker died with it, or is not back yet.
        """
        return await self._append(request)

    def release(self, stream: str) -> None:
        """Have the worker forget a stream after all that was requested for it; needs no waiting for."""
        self._append(Release(stream)).add_done_callback(_retrieve)

    async def run(self) -> None:
        """Carry requests until cancelled; start the worker again whenever it is lost."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._loss is not None:
                    logger.error("%s is lost: %s", self.name, self._loss)
                    await self._recover()
                if len(self._out) == CALLS:
                    continue
                batch = self._take()
                if batch:
                    called = loop.time()
                    self._out[loop.create_task(self._call(batch))] = batch
                    await asyncio.sleep(called + self._tick - loop.time())
        finally:
            for call in self._out:
                call.cancel()

    async def _call(self, batch: list[tuple[Request[Any], asyncio.Future[Outcome]]]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self.worker.step([request for request, _ in batch])
        except (WorkerLostError, TimeoutError) as error:
            self._loss = error
        else:
            self._settle(batch, reply)
            call = asyncio.current_task()
            assert call is not None
            del self._out[call]
        self._wake.set()

    async def _recover(self) -> None:
        """Fail whatever is under way and start the worker again."""
        calls = list(self._out)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        self._fail()
        self._loss = None
        await self._restart()

    def _append(self, request: Request[Any]) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._wake.set()
        return future

    def _take(self) -> list[tuple[Request[Any], asyncio.Future[Outcome]]]:
        batch: list[tuple[Request[Any], asyncio.Future[Outcome]]] = []
        left: deque[tuple[Request[Any], asyncio.Future[Outcome]]] = deque()
        # Streams whose requests have to wait for one that is out, or for one of their own that has to.
        held = {request.stream for out in self._out.values() for request, _ in out}
        room, full = CALL_BYTES, False
        for request, future in self._waiting:
            if future.done():  # whoever asked has gone
                continue
            size = payload_bytes(request)
            full = full or (bool(batch) and size > room)
            if full or request.stream in held:
                held.add(request.stream)
                left.append((request, future))
                continue
            room -= size
            batch.append((request, future))
        self._waiting = left
        if full:
            self._wake.set()
        return batch

    def _settle(self, batch: Sequence[tuple[Request[Any], asyncio.Future[Outcome]]], reply: Reply) -> None:
        self.credits = reply.credits
        if self._observe is not None:
            self._observe(len(batch), reply.seconds)
        for (_, future), outcome in zip(batch, reply.outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)

    def _fail(self) -> None:
        self.alive = False
        self.credits = 0
        under_way = [asked for out in self._out.values() for asked in out]
        for _, future in [*under_way, *self._waiting]:
            if not future.done():
                future.set_exception(WorkerLostError(f"{self.name} was lost"))
        self._out.clear()
        self._waiting.clear()

    async def _restart(self) -> None:
        while True:
            try:
                await self.start()
            except SurtitleError as error:
                logger.error("%s does not start: %s", self.name, error)
                self._fail()
                await asyncio.sleep(self._patience)
            else:
                return


def _retrieve(future: asyncio.Future[Outcome]) -> None:
    """Take note of a failure that nobody waits for: a worker that is lost has forgotten every stream."""
    if not future.cancelled():
        future.exception()


def payload_bytes(request: Request[Any]) -> int:
    """Bytes of audio or soft tokens in a request; what else travels is too small to count."""
    if not isinstance(request, Push):
        return 0
    return sum(item_bytes(item) for item in request.items)


def item_bytes(item: object) -> int:
    """Bytes of audio or soft tokens in one item of a ``Push``."""
    if isinstance(item, bytes):
        return len(item)
    return int(getattr(getattr(item, "tokens", None), "nbytes", 0))


def least_loaded(pumps: Sequence[Pump]) -> Pump | None:
    """The pump whose worker takes the most further streams; ``None`` when none takes any."""
    best = max(pumps, key=lambda pump: pump.credits)
    return best if best.credits > 0 else None
