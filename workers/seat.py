"""A stream's place on a worker, and what it takes to get another when that worker is lost.

The state of a stream is in its workers alone, and they may die at any moment. So a seat keeps the requests
since the last checkpoint that a worker gave, which is at most those of an utterance and of some seconds of
silence, and has them carried out again elsewhere. What comes of a request that had been answered is dropped:
the same requests behind the same checkpoint come to the same. That of the one that was under way is the
answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config import StreamConfig
from workers.fleet import Fleet
from workers.messages import Done, Failed, Open, Outcome, Request, Resumption
from workers.protocols import StreamError, WorkerLostError
from workers.pump import Pump

ATTEMPTS = 3
"""How often a request that a worker died with is given to others."""

RETRY_SECONDS = 5.0
"""What a client is told that finds no place."""

PATIENCE = 60.0
"""Seconds for which a stream waits for room when its worker is lost."""

logger = logging.getLogger(__name__)


class Seat:
    """Carries one half of a stream's requests to a worker, one at a time, whatever happens to workers.

    Args:
        fleet: workers of its kind.
        stream: its id.
        config: its configuration at the start.
        shown: number of the running utterance, its stable text and its language, as in
            :class:`~workers.messages.Resumption`.
        moved: told when the stream has gone on on another worker.
        begun: whether another gateway has begun the stream,
        checkpoint: and what its worker has given to go on from, if anything.
    """

    def __init__(
        self,
        fleet: Fleet,
        stream: str,
        config: StreamConfig,
        *,
        shown: Callable[[], tuple[int, Mapping[str, str], str]] = lambda: (0, {}, ""),
        moved: Callable[[], None] | None = None,
        begun: bool = False,
        checkpoint: object | None = None,
    ) -> None:
        self._fleet = fleet
        self._stream = stream
        self._config = config
        self._shown = shown
        self._moved = moved
        self._pump: Pump | None = None
        self._begun = begun
        self._checkpoint = checkpoint
        # Requests since the checkpoint, the last of which may not have been answered yet.
        self._since: list[Request[Any]] = []

    async def take(self) -> None:
        """Have a worker make room.

        Raises:
            StreamError: none has room (``at_capacity``), or it refuses the stream.
            WorkerLostError: workers were lost with it again and again.
        """
        for _ in range(ATTEMPTS):
            self._pump = self._fleet.take()
            if self._pump is None:
                break
            try:
                opening = self._resuming() if self._begun else Open(self._stream, self._config)
                outcome = await self._pump.request(opening)
            except WorkerLostError:
                continue
            if _is_lost(outcome):
                continue
            if isinstance(outcome, Failed):
                raise StreamError(outcome.message, code=outcome.code)
            return
        raise StreamError(
            "all places for streams are taken; try again later",
            code="at_capacity",
            retry_after=RETRY_SECONDS,
        )

    async def request(self, request: Request[Any]) -> Outcome:
        """Carry a request to wherever the stream is, and its outcome back.

        Raises:
            WorkerLostError: every worker that it was given to died with it, or none has room.
        """
        assert self._pump is not None
        self._since.append(request)
        try:
            outcome = await self._pump.request(request)
            if _is_lost(outcome):
                outcome = await self._go_on()
        except WorkerLostError:
            outcome = await self._go_on()
        if isinstance(outcome, Done) and outcome.checkpoint is not None:
            self._checkpoint = outcome.checkpoint
            self._since.clear()
        return outcome

    @property
    def settled(self) -> tuple[object | None] | None:
        """The last checkpoint, if nothing was requested behind it."""
        return None if self._since else (self._checkpoint,)

    @property
    def narrowed(self) -> bool:
        """Whether the worker uses a sub-model that is narrower than the whole."""
        return self._pump is not None and self._pump.widths != self._pump.ladder[0]

    def release(self) -> None:
        """Have the worker forget the stream."""
        if self._pump is not None:
            self._pump.release(self._stream)

    def _resuming(self) -> Open:
        return Open(self._stream, self._config, Resumption(self._checkpoint, *self._shown()))

    async def _go_on(self) -> Outcome:
        """Go on on another worker; returns the outcome of the last request."""
        outcome = await self._try_elsewhere()
        for _ in range(ATTEMPTS - 1):
            if outcome is not None:
                break
            async with self._fleet.suspects:
                outcome = await self._try_elsewhere()
        if outcome is None:
            raise WorkerLostError("every worker that went on with the stream was lost")
        logger.info("moved to another worker", extra={"stream": self._stream})
        if self._moved is not None:
            self._moved()
        return outcome

    async def _try_elsewhere(self) -> Outcome | None:
        self._pump = pump = await self._fleet.take_soon(PATIENCE)
        requests = (self._resuming(), *self._since)
        results = await asyncio.gather(*map(pump.request, requests), return_exceptions=True)
        for result in results:
            if isinstance(result, WorkerLostError):
                return None
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, Failed) and result.lost:
                return None if result.code == "at_capacity" or _is_lost(result) else result
        outcome = results[-1]
        assert isinstance(outcome, Done | Failed)
        return outcome


def _is_lost(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and outcome.code == WorkerLostError.code
