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
from dataclasses import dataclass
from typing import Any

from pipeline.errors import SurtitleError
from pipeline.gemma.matformer import Widths
from workers.messages import Outcome, Push, Release, Reply, Request, WorkerInfo
from workers.protocols import Worker, WorkerLostError

CALL_BYTES = 96 * 1024
"""Most payload of one call: beyond about 100 KB, Ray goes through its object store, at twice the latency."""

CALLS = 4
"""Most calls that are out at a time."""

BEAT_SECONDS = 0.25
SILENCE_SECONDS = 1.5
"""How long after one sign of life the next is asked for, and after which silence a worker is lost: so a
process that was stopped is missed within two seconds. Of one that died, Ray tells within milliseconds."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trip:
    """A request that has come back.

    Args:
        request: it.
        outcome: what came of it.
        asked: when it came to the pump, by the event loop's clock,
        called: when the call began that it was in,
        answered: and when that call's reply came.
        inside: seconds of the call that went by in the worker.
    """

    request: Request[Any]
    outcome: Outcome
    asked: float
    called: float
    answered: float
    inside: float


class Pump:
    """Carries requests of many streams to one worker.

    Args:
        name: for logs and metrics.
        worker: where the requests go.
        tick: least seconds from one call to the next; an idle worker is called at once.
        timeout: seconds after which a call without reply means that the worker is lost.
        silence: seconds without a sign of life after which it is, too.
        spare: whether the worker is there for streams of others that are lost, and takes no new ones.
        patience: seconds between two attempts to start a worker that was lost.
        observe: told of every call: requests in it, seconds that the worker was busy with it, from the call
            to the reply, and how many of those went by on the way there and back.
        trip: told of every request.
        lost: told when the worker is lost.
    """

    def __init__(
        self,
        name: str,
        worker: Worker,
        *,
        tick: float = 0.02,
        timeout: float = 60.0,
        silence: float = SILENCE_SECONDS,
        patience: float = 1.0,
        spare: bool = False,
        observe: Callable[[int, float, float, float], None] | None = None,
        trip: Callable[[Trip], None] | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.spare = spare
        self.worker = worker
        # Whether the worker has started and was not lost since.
        self.alive = False
        # How many more streams the worker takes, as it last said; 0 while it is not alive.
        self.credits = 0
        # Places for streams that the worker has.
        self.places = 0
        # Sub-models of the worker, and the one in use.
        self.ladder: tuple[Widths | None, ...] = (None,)
        self.widths: Widths | None = None
        # Seconds that the worker was busy; share of the last seconds; and of that, what one stream took.
        self.busy_seconds = 0.0
        self.load = 0.0
        self.load_of_one = 0.0
        self._tick = tick
        self._timeout = timeout
        self._silence = silence
        self._patience = patience
        self._observe = observe
        self._trip = trip
        self._on_loss = lost
        # Told when there may be more room than before.
        self.on_room: Callable[[], None] = _nothing
        self._waiting: deque[_Asked] = deque()
        # Requests in each call that is out.
        self._out: dict[asyncio.Task[None], list[_Asked]] = {}
        self._loss: WorkerLostError | TimeoutError | None = None
        # Set when a request came, a call came back, or the worker was lost.
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Start the worker.

        Raises:
            WorkerLostError: it could not be started.
        """
        self._started(await self.worker.start())

    async def request(self, request: Request[Any]) -> Outcome:
        """Carry one request there and its outcome back.

        Raises:
            WorkerLostError: the worker died with it, or is not back yet.
        """
        if not self.alive:
            raise WorkerLostError(f"{self.name} is lost")
        return await self._append(request)

    @property
    def streams(self) -> int:
        """Streams that the worker has, as far as is known."""
        return self.places - self.credits

    @property
    def waiting(self) -> int:
        """Requests that wait for the worker or for its answer."""
        return len(self._waiting) + sum(map(len, self._out.values()))

    @property
    def narrowest(self) -> bool:
        """Whether there is no narrower sub-model than the one in use."""
        return self.widths == self.ladder[-1]

    async def narrow(self, widths: Widths | None) -> None:
        """Have the worker go on in a sub-model.

        Raises:
            WorkerLostError: it is lost.
        """
        await self.worker.narrow(widths)
        self.widths = widths

    def release(self, stream: str) -> None:
        """Have the worker forget a stream after all that was requested for it; needs no waiting for."""
        if self.alive:
            self._append(Release(stream)).add_done_callback(_retrieve)

    async def run(self) -> None:
        """Carry requests until cancelled; start the worker again whenever it is lost."""
        loop = asyncio.get_running_loop()
        heart = loop.create_task(self._listen_to_heart(), name=f"heart of {self.name}")
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
            for task in (heart, *self._out):
                task.cancel()

    async def _listen_to_heart(self) -> None:
        """Lose the worker when its process does not answer: nobody else tells of one that is stopped."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            if not self.alive or self._loss is not None:
                continue
            asked = loop.time()
            try:
                async with asyncio.timeout(self._silence):
                    await self.worker.check_health()
            except WorkerLostError as error:
                self._lose(error)
            except TimeoutError:
                # When this process itself stood still, that says nothing about the worker.
                if loop.time() - asked < self._silence + BEAT_SECONDS:
                    self._lose(WorkerLostError(f"it gave no sign of life for {self._silence:g} s"))

    def _lose(self, error: WorkerLostError | TimeoutError) -> None:
        if self._loss is None:
            self._loss = error
        self._wake.set()

    async def _call(self, batch: list[_Asked]) -> None:
        called = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self.worker.step([asked.request for asked in batch])
        except (WorkerLostError, TimeoutError) as error:
            self._lose(error)
        else:
            self._settle(batch, reply, called, asyncio.get_running_loop().time())
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
        if self._on_loss is not None:
            self._on_loss()
        await self._restart()
        self._loss = None

    def _append(self, request: Request[Any]) -> asyncio.Future[Outcome]:
        loop = asyncio.get_running_loop()
        asked = _Asked(request, loop.create_future(), loop.time())
        self._waiting.append(asked)
        self._wake.set()
        return asked.answer

    def _take(self) -> list[_Asked]:
        batch: list[_Asked] = []
        left: deque[_Asked] = deque()
        # Streams whose requests have to wait for one that is out, or for one of their own that has to.
        held = {asked.request.stream for out in self._out.values() for asked in out}
        room, full = CALL_BYTES, False
        for asked in self._waiting:
            if asked.answer.done():  # whoever asked has gone
                continue
            size = payload_bytes(asked.request)
            full = full or (bool(batch) and size > room)
            if full or asked.request.stream in held:
                held.add(asked.request.stream)
                left.append(asked)
                continue
            room -= size
            batch.append(asked)
        self._waiting = left
        if full:
            self._wake.set()
        return batch

    def _settle(self, batch: Sequence[_Asked], reply: Reply, called: float, answered: float) -> None:
        self.credits = reply.credits
        self.busy_seconds += reply.seconds
        self.on_room()
        away = answered - called
        if self._observe is not None:
            self._observe(len(batch), reply.seconds, away, away - reply.inside)
        for asked, outcome in zip(batch, reply.outcomes, strict=True):
            if self._trip is not None:
                self._trip(Trip(asked.request, outcome, asked.moment, called, answered, reply.inside))
            if not asked.answer.done():
                asked.answer.set_result(outcome)

    def _fail(self) -> None:
        self.alive = False
        self.credits = 0
        under_way = [asked for out in self._out.values() for asked in out]
        for asked in [*under_way, *self._waiting]:
            if not asked.answer.done():
                asked.answer.set_exception(WorkerLostError(f"{self.name} was lost"))
        self._out.clear()
        self._waiting.clear()

    async def _restart(self) -> None:
        while True:
            try:
                self._started(await self.worker.restart())
            except SurtitleError as error:
                logger.error("%s does not start: %s", self.name, error)
                await asyncio.sleep(self._patience)
            else:
                logger.warning("%s is back", self.name)
                return

    def _started(self, info: WorkerInfo) -> None:
        self.credits = self.places = info.credits
        self.ladder, self.widths = info.ladder, None
        self.load = 0.0
        self.alive = True
        self.on_room()


@dataclass(frozen=True, eq=False)
class _Asked:
    """A request, where its outcome is awaited, and when it came."""

    request: Request[Any]
    answer: asyncio.Future[Outcome]
    moment: float


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


def _nothing() -> None:
    pass
