"""The way of a stream's captions to a sink: paced, in order, tried again, and never in the stream's way."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pipeline.text.cues import Cue, CueConfig
from workers.metrics import Metrics
from workers.sessions import LiveStream
from workers.sinks.base import BusyError, Caption, ClosedError, RefusedError, Sink
from workers.watching import CueViewing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a sink is waited for.

    Args:
        first: seconds before the second attempt; twice as many before each further one. Up to half of them
            are taken off at random, so that sinks do not all come back at once.
        longest: most seconds between two attempts.
        late: seconds behind its time after which a caption is left out: what is on the screen has moved on.
        waiting: captions that may wait; when there are more, the oldest are left out.
    """

    first: float = 0.25
    longest: float = 8.0
    late: float = 20.0
    waiting: int = 64


PATIENCE = Patience()


class Delivery:
    """Captions of one stream in one language to one sink.

    Args:
        name: of the sink, for logs and metrics.
        sink: where to.
        stream: whose captions.
        config: what the captions obey; its language is the one that is delivered.
        clock: Unix time in seconds, the same that stamps the stream's events.
        metrics: where to count.
        patience: how long the sink is waited for.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        stream: LiveStream,
        config: CueConfig,
        *,
        clock: Callable[[], float],
        metrics: Metrics,
        patience: Patience = PATIENCE,
    ) -> None:
        self._name = name
        self._sink = sink
        self._stream = stream
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._patience = patience
        self._waiting: deque[Cue] = deque()
        self._arrived = asyncio.Event()
        # Whether no further cue will come; how many captions were made.
        self._complete = False
        self._number = 0

    async def run(self) -> None:
        """Deliver until the stream has ended and all is delivered, or the sink is closed for good."""
        following = asyncio.create_task(self._follow())
        try:
            while (cue := await self._next()) is not None:
                await self._deliver(cue.text, cue.start, cue.end)
                if self._sink.clears and not await self._replaced_by(cue.end):
                    await self._deliver("", cue.end, cue.end + self._patience.late)
        except ClosedError as error:
            logger.error("sink %s takes no captions of stream %s: %s", self._name, self._stream.id, error)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await self._sink.close()

    async def _follow(self) -> None:
        """Take cues as they come; nothing here waits for the sink."""
        try:
            viewing = CueViewing(self._stream, self._config.language, self._config)
            async for cue in viewing.cues(self._clock):
                self._waiting.append(cue)
                if len(self._waiting) > self._patience.waiting:
                    self._waiting.popleft()
                    self._count("dropped")
                self._arrived.set()
        except Exception:
            logger.exception("captions of stream %s for sink %s failed", self._stream.id, self._name)
        finally:
            self._complete = True
            self._arrived.set()

    async def _next(self) -> Cue | None:
        """The next cue, when it is its time; None behind the last."""
        while not self._waiting:
            if self._complete:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        await asyncio.sleep(self._waiting[0].start - self._clock())
        return self._waiting.popleft()

    async def _replaced_by(self, end: float) -> bool:
        """Whether another cue starts before or at ``end``; returns when that is certain."""
        while not self._waiting and not self._complete and self._clock() < end:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(end - self._clock()):
                    await self._arrived.wait()
        if self._waiting and self._waiting[0].start <= end + self._config.gap:
            return True
        await asyncio.sleep(end - self._clock())
        return False

    async def _deliver(self, text: str, start: float, end: float) -> None:
        """Send a caption, again and again if need be.

        Raises:
            ClosedError: the sink will take none any more.
        """
        self._number += 1
        caption = Caption(self._number, self._stream.id, self._config.language, text, start, end)
        attempt = 0
        while True:
            try:
                await self._sink.send(caption)
            except RefusedError as error:
                logger.warning("sink %s refused a caption: %s", self._name, error)
                self._count("refused")
                return
            except BusyError as error:
                backoff = min(self._patience.longest, self._patience.first * 2**attempt)
                delay = max(error.retry_after, backoff * random.uniform(0.5, 1.0))
                attempt += 1
                if self._clock() + delay > start + self._patience.late:
                    logger.warning("sink %s took a caption for too long: %s", self._name, error)
                    self._count("late")
                    return
                await asyncio.sleep(delay)
            else:
                self._count("sent")
                return

    def _count(self, outcome: str) -> None:
        self._metrics.sink_captions.labels(self._name, outcome).inc()
