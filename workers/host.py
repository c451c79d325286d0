"""A worker as a plain class: many streams, one model, one thread that computes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

from pipeline.errors import SurtitleError
from workers.messages import (
    Done,
    Failed,
    Open,
    Outcome,
    Release,
    Reply,
    Request,
    Update,
    WorkerInfo,
    WorkerStats,
)
from workers.protocols import Load, OpenStream

State = TypeVar("State")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class StreamHost(ABC, Generic[State]):
    """Carries out batches of requests of many streams; the base of both kinds of worker.

    Everything that computes or touches a stream's state runs in one thread of its own, so that the
    event loop answers :meth:`check_health` while a batch is at work, and streams need no locks.

    Args:
        load: loads the model and returns what opens streams on it; called once, by :meth:`start`.
        capacity: most streams at a time.
        threads: for torch; ``None`` leaves the number as it is.
    """

    def __init__(self, load: Load[State], *, capacity: int = 32, threads: int | None = None) -> None:
        self._load = load
        self._capacity = capacity
        self._threads = threads
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=type(self).__name__)
        # What opens streams on the loaded model; set by start().
        self._open_stream: OpenStream[State] | None = None
        # State of each stream by its id; touched only in the executor's thread.
        self._streams: dict[str, State] = {}
        self._batches = self._requests = self._failures = 0
        self._busy_seconds = 0.0

    async def start(self) -> WorkerInfo:
        """Load the model; returns once the worker can serve. Again is harmless."""
        return await self._in_thread(self._start)

    async def step(self, batch: Sequence[Request[Any]]) -> Reply:
        """Carry out a batch in its order; a request that fails leaves the others alone."""
        return await self._in_thread(self._step, batch)

    async def stats(self) -> WorkerStats:
        """Totals since the start."""
        return WorkerStats(
            len(self._streams), self._batches, self._requests, self._failures, self._busy_seconds
        )

    async def check_health(self) -> None:
        """Return at once: the event loop runs."""

    @abstractmethod
    def _carry_out(self, state: State, request: Request[Any]) -> Sequence[object]:
        """Answer a request other than ``Open`` and ``Release`` with the items that came of it."""

    async def _in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    def _start(self) -> WorkerInfo:
        if self._open_stream is None:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            self._open_stream = self._load()
        return WorkerInfo(pid=os.getpid(), credits=self._credits)

    @property
    def _credits(self) -> int:
        return self._capacity - len(self._streams)

    def _step(self, batch: Sequence[Request[Any]]) -> Reply:
        started = time.perf_counter()
        outcomes = [self._outcome(request) for request in batch]
        seconds = time.perf_counter() - started
        self._batches += 1
        self._requests += len(batch)
        self._busy_seconds += seconds
        return Reply(outcomes, self._credits, seconds)

    def _outcome(self, request: Request[Any]) -> Outcome:
        try:
            if isinstance(request, Open):
                return self._open(request)
            if isinstance(request, Release):
                self._streams.pop(request.stream, None)
                return Done()
            state = self._streams.get(request.stream)
            if state is None:
                return Failed("worker_lost", "the stream's state was lost with the worker that held it")
            return Done(tuple(self._carry_out(state, request)))
        except SurtitleError as error:
            self._failures += 1
            lost = not isinstance(request, Update)  # a refused update leaves everything as it was
            if lost:
                self._streams.pop(request.stream, None)
            return Failed(error.code, str(error), lost)
        except Exception as error:
            # Whatever a stream's input provokes must end that stream and no other. The client is told
            # the kind of error alone: the text of an exception can hold what was said.
            self._failures += 1
            self._streams.pop(request.stream, None)
            logger.exception("stream %s failed in %s", request.stream, type(self).__name__)
            return Failed("internal", f"the stream failed with an internal error ({type(error).__name__})")

    def _open(self, request: Open) -> Outcome:
        if self._open_stream is None:
            return Failed("worker_lost", "the worker is not ready")
        if self._credits <= 0:
            return Failed("at_capacity", f"all {self._capacity} places for streams are taken")
        self._streams[request.stream] = self._open_stream(request.config)
        return Done()
