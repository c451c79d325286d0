"""A stream that stands still is ended with an error: silence must mean that nobody speaks."""

from __future__ import annotations

import asyncio

from workers.protocols import StreamError

STALL_SECONDS = 120.0
"""How long audio may wait without any progress; twice what a call to a worker may take, so that a stream
whose worker hangs has moved to another one by then."""


class Watchdog:
    """Expires when there is work and none of it gets done.

    Args:
        seconds: without progress after which it does.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def guard(self) -> None:
        """Return when :meth:`end` is called.

        Raises:
            StreamError: it has expired; the code is ``stalled``.
        """
        try:
            await self._end
        finally:
            self._disarm()

    def fed(self) -> None:
        """Work has come."""
        if self._timer is None and not self._end.done():
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def moved(self, *, waiting: bool) -> None:
        """Work was done; ``waiting`` tells whether there is more."""
        self._disarm()
        if waiting:
            self.fed()

    def end(self) -> None:
        """There is nothing to guard any more."""
        self._disarm()
        if not self._end.done():
            self._end.set_result(None)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if not self._end.done():
            sentence = f"no audio was processed for {self._seconds:g} s though some was waiting"
            self._end.set_exception(StreamError(sentence, code="stalled"))
