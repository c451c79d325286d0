"""The last events of one stream, for everyone who follows it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.wire.events import Event, encode
from workers.protocols import StreamError


@dataclass(frozen=True)
class Entry:
    """An event, and its text on the wire."""

    event: Event
    text: str


class EventLog:
    """Events in the order of ``seq``, which starts at 1 and has no gaps; the oldest make room.

    A follower owns nothing but a position, so that one who reads slowly costs no memory; when the
    log has moved past its position, it has lost its place.

    Args:
        capacity: events that are kept.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        # Number of the newest event.
        self.last_seq = 0
        # Whether the last event there will be is in the log.
        self.closed = False
        self._grown = asyncio.Event()

    @property
    def first_seq(self) -> int:
        """Number of the oldest event that is kept."""
        return self.last_seq - len(self._entries) + 1

    def append(self, event: Event, *, last: bool = False) -> None:
        """Add the next event; after the ``last`` one, followers come to their end."""
        self._entries.append(Entry(event, encode(event)))
        self.last_seq = event.seq
        self.closed = last
        self._grown.set()
        self._grown = asyncio.Event()

    def kept(self, after_seq: int) -> Sequence[Entry]:
        """The events after ``after_seq`` that are kept."""
        return list(islice(self._entries, max(0, after_seq + 1 - self.first_seq), None))

    async def grown(self, after_seq: int) -> None:
        """Wait until there is an event after ``after_seq``, or there will be none."""
        while self.last_seq <= after_seq and not self.closed:
            await self._grown.wait()

    async def follow(self, after_seq: int) -> AsyncIterator[Entry]:
        """Yield every event after ``after_seq``, as it comes, to the end of the stream.

        Raises:
            StreamError: with code ``too_slow``, when events were dropped that were not yet yielded.
        """
        seq = after_seq
        while True:
            while seq < self.last_seq:
                if seq + 1 < self.first_seq:
                    raise StreamError(
                        f"events {seq + 1} to {self.first_seq - 1} are no longer kept", code="too_slow"
                    )
                seq += 1
                yield self._entries[seq - self.first_seq]
            if self.closed:
                return
            await self.grown(seq)
