"""A worker as a plain class: many streams, one model, one thread that computes."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from pipeline.batching import Batch, Steps, is_out_of_memory
from pipeline.errors import ShortMemoryError, SurtitleError
from pipeline.gemma.matformer import Widths
from workers.messages import (
    Done,
    Failed,
    Open,
    Outcome,
    Release,
    Reply,
    Request,
    Resumption,
    Update,
    WorkerInfo,
    WorkerStats,
)
from workers.protocols import HostedStream, Load, Loaded

State = TypeVar("State", bound=HostedStream)
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

NICER, SWITCH_SECONDS = 5, 0.0005
"""By how much threads that compute are nicer than the one that carries requests, and how soon they hand it
the interpreter. Where processors are full, a request's way there and back is shorter by that."""


class StreamHost(ABC, Generic[State]):
    """Carries out requests of many streams; the base of both kinds of worker.

    Calls of :meth:`step` may overlap. What they ask for runs in rounds: in each, the model does the next
    piece of work of every stream in one batch, and then streams whose request is done leave and others that
    have come meanwhile join. Requests of one stream are carried out in the order in which they came.

    Everything that computes or touches a stream's state runs in one thread of its own, so that the
    event loop answers :meth:`check_health` while a round is at work, and streams need no locks.

    Args:
        load: loads the model and returns what opens streams on it; called once, by :meth:`start`.
        capacity: most streams at a time.
        threads: for torch, where the process is the worker's own; ``None`` leaves everything as it is.
    """

    def __init__(self, load: Load[State], *, capacity: int = 32, threads: int | None = None) -> None:
        self._load = load
        self._capacity = capacity
        self._threads = threads
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=type(self).__name__)
        # Requests that came since the last round began, and the task that runs rounds while there are any.
        self._arrived: list[_Asked] = []
        self._rounds: asyncio.Task[None] | None = None
        # The loaded model, set by start(); from here on touched only in the executor's thread.
        self._loaded: Loaded[State] | None = None
        self._batch: Batch[str, Any, Any, Sequence[object]] = Batch(self._carry_out_all)
        self._streams: dict[str, State] = {}
        # The sub-model that is in use; None is the whole model.
        self._widths: Widths | None = None
        # Requests of each stream that are not done, in order; the work of the first is in the batch.
        self._queues: dict[str, deque[_Asked]] = {}
        self._batches = self._requests = self._failures = 0
        # Seconds of all rounds, and how many of them a reply has told.
        self._busy_seconds = self._told_seconds = 0.0

    async def start(self) -> WorkerInfo:
        """Load the model; returns once the worker can serve. Again is harmless."""
        return await self._in_thread(self._start)

    async def restart(self) -> WorkerInfo:
        """Forget all streams and start."""
        await self._in_thread(self._streams.clear)
        return await self.start()

    async def step(self, batch: Sequence[Request[Any]]) -> Reply:
        """Carry out requests; one that fails leaves the others alone. Returns when all are done."""
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        asked = [_Asked(request, loop.create_future()) for request in batch]
        self._arrived += asked
        if self._rounds is None:
            self._rounds = loop.create_task(self._run_rounds())
        outcomes = [await one.answer for one in asked]
        self._batches += 1
        self._requests += len(batch)
        seconds = self._busy_seconds - self._told_seconds
        self._told_seconds = self._busy_seconds
        return Reply(outcomes, self._credits, seconds, loop.time() - arrived)

    async def narrow(self, widths: Widths | None) -> None:
        """Go on in a sub-model of the ladder with all streams, those that come included."""
        await self._in_thread(self._narrow, widths)

    async def stats(self) -> WorkerStats:
        """Totals since the start."""
        return WorkerStats(
            len(self._streams), self._batches, self._requests, self._failures, self._busy_seconds
        )

    async def check_health(self) -> None:
        """Return at once: the event loop runs."""

    @abstractmethod
    def _steps(self, state: State, request: Request[Any]) -> Steps[Any, Any, Sequence[object]]:
        """Answer a request other than ``Open`` and ``Release`` with the items that came of it."""

    @abstractmethod
    def _resize(self, state: State, widths: Widths | None) -> None:
        """Have a stream go on in a sub-model."""

    @abstractmethod
    def _resume(self, state: State, resumption: Resumption) -> None:
        """Have a new stream go on where another worker was."""

    async def _in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    async def _run_rounds(self) -> None:
        unanswered: list[_Asked] = []
        try:
            while self._arrived or unanswered:
                arrived, self._arrived = self._arrived, []
                unanswered += arrived
                for asked, outcome in await self._in_thread(self._round, arrived):
                    if not asked.answer.done():  # who asked may have gone
                        asked.answer.set_result(outcome)
                unanswered = [asked for asked in unanswered if not asked.answer.done()]
        finally:
            self._rounds = None
            for asked in unanswered:
                asked.answer.cancel()

    def _start(self) -> WorkerInfo:
        if self._loaded is None:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
                _give_way()
            self._loaded = self._load()
        return WorkerInfo(pid=os.getpid(), credits=self._credits, ladder=self._loaded.ladder)

    def _narrow(self, widths: Widths | None) -> None:
        self._widths = widths
        for state in self._streams.values():
            self._resize(state, widths)

    @property
    def _credits(self) -> int:
        return self._capacity - len(self._streams)

    def _carry_out_all(self, works: Sequence[Any]) -> Sequence[Any]:
        assert self._loaded is not None
        return self._loaded.carry_out(works)

    def _round(self, arrived: Sequence[_Asked]) -> list[tuple[_Asked, Outcome]]:
        """Take requests in and do one pass for all streams; returns what is done."""
        started = time.perf_counter()
        done: list[tuple[_Asked, Outcome]] = []
        for asked in arrived:
            queue = self._queues.setdefault(asked.request.stream, deque())
            queue.append(asked)
            if len(queue) == 1:
                self._begin(asked.request.stream, done)
        for stream, result in self._batch.step():
            asked = self._queues[stream].popleft()
            if isinstance(result, Exception):
                done.append((asked, self._failed(asked.request, result)))
            else:
                done.append((asked, self._finished(asked.request, result)))
            self._begin(stream, done)
        self._busy_seconds += time.perf_counter() - started
        return done

    def _begin(self, stream: str, done: list[tuple[_Asked, Outcome]]) -> None:
        """Begin a stream's next requests, up to one that needs the model."""
        queue = self._queues[stream]
        while queue:
            outcome = self._outcome(queue[0].request)
            if outcome is None:
                return
            done.append((queue.popleft(), outcome))
        del self._queues[stream]

    def _outcome(self, request: Request[Any]) -> Outcome | None:
        """What came of a request, or None if its work is in the batch now."""
        try:
            if isinstance(request, Open):
                return self._open(request)
            if isinstance(request, Release):
                self._streams.pop(request.stream, None)
                return Done()
            state = self._streams.get(request.stream)
            if state is None:
                return Failed("worker_lost", "the stream's state was lost with the worker that held it")
            self._batch.add(request.stream, self._steps(state, request))
        except Exception as error:
            return self._failed(request, error)
        return None

    def _finished(self, request: Request[Any], items: Sequence[object]) -> Outcome:
        try:
            state = self._streams.get(request.stream)
            return Done(tuple(items), None if state is None else state.checkpoint())
        except Exception as error:
            return self._failed(request, error)

    def _failed(self, request: Request[Any], error: Exception) -> Failed:
        """Whatever a stream's input provokes must end that stream and no other."""
        self._failures += 1
        lost = not (isinstance(error, SurtitleError) and isinstance(request, Update))
        if lost:  # a refused update leaves everything as it was
            self._streams.pop(request.stream, None)
        try:
            return self._told(request, error, lost=lost)
        finally:
            # It refers to frames that refer to it, and to all that the stream had: that is to be free now and
            # not when the garbage collector comes, above all where memory was short.
            error.__traceback__ = error.__context__ = error.__cause__ = None

    def _told(self, request: Request[Any], error: Exception, *, lost: bool) -> Failed:
        if isinstance(error, SurtitleError):
            return Failed(error.code, str(error), lost)
        if is_out_of_memory(error):
            return Failed(ShortMemoryError.code, "there is not enough memory to go on with this stream")
        # The kind of error and where it came from, alone: the text of an exception can hold what was said.
        logger.error(
            "stream %s failed in %s: %s\n%s",
            request.stream,
            type(self).__name__,
            type(error).__name__,
            "".join(traceback.format_tb(error.__traceback__)),
            extra={"stream": request.stream},
        )
        return Failed("internal", f"the stream failed with an internal error ({type(error).__name__})")

    def _open(self, request: Open) -> Outcome:
        if self._loaded is None:
            return Failed("worker_lost", "the worker is not ready")
        if self._credits <= 0:
            return Failed("at_capacity", f"all {self._capacity} places for streams are taken")
        state = self._loaded.open_stream(request.config)
        if request.resumption is not None:
            self._resume(state, request.resumption)
        if self._widths is not None:
            self._resize(state, self._widths)
        self._streams[request.stream] = state
        return Done()


def _give_way() -> None:
    """Have the calling thread, and those that it starts, compute when the others have nothing to carry."""
    sys.setswitchinterval(SWITCH_SECONDS)
    if sys.platform == "linux":  # elsewhere, priorities are those of processes
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A request and where its outcome is awaited."""

    request: Request[Any]
    answer: asyncio.Future[Outcome]
