"""The last events of one stream, for everyone who follows it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from pipeline.wire.events import Event, encode
from workers.protocols import StreamError


@dataclass(frozen=True)
class Entry:
    """An event, and its text on the wire."""

    event: Event
    text: str


class Observer(Protocol):
    """Who wants to know what becomes of a stream's events."""

    def published(self, event: Event) -> None:
        """An event was appended."""

    def released(self, event: Event) -> None:
        """An event that was held can be seen."""

    def delivered(self, event: Event) -> None:
        """An event has been sent to the stream's client."""


class EventLog:
    """Events in the order of ``seq``, which starts at 1 and has no gaps; the oldest make room.

    A follower owns nothing but a position, so that one who reads slowly costs no memory; when the
    log has moved past its position, it has lost its place.

    Args:
        capacity: events that are kept.
        held: whether events are seen by nobody before they are released.
    """

    def __init__(self, capacity: int = 4096, *, held: bool = False) -> None:
        self._entries: deque[Entry] = deque(maxlen=capacity)
        # Number of the newest event that is seen.
        self.last_seq = 0
        # Whether the last event there will be has been appended, and whether it is seen.
        self.ended = False
        self.closed = False
        # Events that are not seen yet, where they have to wait for that.
        self._held: deque[Entry] | None = deque() if held else None
        self._grown = asyncio.Event()
        self.observer: Observer | None = None

    @property
    def first_seq(self) -> int:
        """Number of the oldest event that is kept."""
        return self.last_seq - len(self._entries) + 1

    def append(self, event: Event, *, last: bool = False) -> Entry:
        """Add the next event; after the ``last`` one, followers come to their end."""
        entry = Entry(event, encode(event))
        self.ended = last
        if self.observer is not None:
            self.observer.published(event)
        if self._held is None:
            self.fill([entry], closed=last)
        else:
            self._held.append(entry)
        return entry

    def release(self, seq: int) -> None:
        """Have events up to ``seq`` be seen."""
        released = []
        while self._held and self._held[0].event.seq <= seq:
            released.append(self._held.popleft())
            if self.observer is not None:
                self.observer.released(released[-1].event)
        if released:
            self.fill(released, closed=self.ended and not self._held)

    def delivered(self, event: Event) -> None:
        """Take note that the stream's client has been sent an event."""
        if self.observer is not None:
            self.observer.delivered(event)

    def discard(self) -> None:
        """Forget what is not seen yet, for another gateway goes on; hold nothing any more."""
        self._held, self.ended = None, False

    def fill(self, entries: Sequence[Entry], *, closed: bool = False) -> None:
        """Add events that may be seen, by their numbers; what is before a gap in these is forgotten."""
        for entry in entries:
            if entry.event.seq != self.last_seq + 1:
                self._entries.clear()
            self._entries.append(entry)
            self.last_seq = entry.event.seq
        self.closed = closed
        self.ended = self.ended or closed
        self._grown.set()
        self._grown = asyncio.Event()

    def kept(self, after_seq: int) -> Sequence[Entry]:
        """The events after ``after_seq`` that are kept and seen."""
        return list(islice(self._entries, max(0, after_seq + 1 - self.first_seq), None))

    def unseen(self) -> Sequence[Entry]:
        """The events that are not seen yet."""
        return list(self._held or ())

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
