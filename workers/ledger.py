"""What gateways share: of every stream, what another one needs to go on with it or to show it; and tickets.

It is the second copy: the first is in the gateway that has the stream. Whichever of the two dies, the other
has everything, so nothing is written to a disk. Which gateway has a stream is told by its *epoch*: whoever
claims a stream raises it, and what comes with a smaller one is refused.

A plain class of strings and bytes, which it never looks into, and of what tickets are good for; hosted by
:mod:`workers.placement`.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from workers.access.identity import Identity
from workers.access.tickets import Drawer

FORMAT = 2
"""Of what is kept here. Gateways that do not agree on it have ledgers of their own."""

LINES, LINE_BYTES = 4096, 2 * 1024 * 1024
FINALS = 40_000
"""Newest events of a stream that are kept, their bytes, and how many final texts besides."""

CAPACITY = 512 * 1024 * 1024
"""Bytes of all streams, beyond which no other one is taken."""


@dataclass(frozen=True)
class Title:
    """What does not change with every event of a stream.

    Args:
        tenant: whose it is.
        token: what it takes to come back.
        about: settings, as the gateway wrote them.
        seconds: for which it is kept when no gateway writes any more.
    """

    tenant: str
    token: str
    about: bytes
    seconds: float


@dataclass(frozen=True)
class Line:
    """An event as it is sent, and whether it is a ``final`` text."""

    seq: int
    text: str
    final: bool = False


@dataclass(frozen=True)
class Write:
    """What a gateway adds to a stream; with nothing in it, that it still has the stream.

    Args:
        stream: its id.
        epoch: under which the gateway has it.
        lines: in the order of ``seq``.
        title: where it is new.
        point: where another gateway would go on, where it is new.
        closed: whether the last event is in ``lines`` or was before.
        whole: whether this is all there is, instead of an addition.
    """

    stream: str
    epoch: int
    lines: tuple[Line, ...] = ()
    title: Title | None = None
    point: bytes | None = None
    closed: bool = False
    whole: bool = False


class Verdict(enum.Enum):
    """What became of a write.

    ``FENCED``: another gateway has the stream. ``UNKNOWN``: the whole is wanted. ``FULL``: there is no room.
    """

    WRITTEN, FENCED, UNKNOWN, FULL = range(4)


@dataclass(frozen=True)
class Record:
    """A stream as it is kept, or the part that was asked for."""

    stream: str
    epoch: int
    title: Title
    lines: tuple[Line, ...]
    point: bytes | None
    closed: bool


@dataclass
class _Volume:
    """One stream."""

    title: Title
    epoch: int
    touched: float
    lines: deque[Line] = field(default_factory=deque)
    # Final texts from before the lines.
    finals: deque[Line] = field(default_factory=lambda: deque(maxlen=FINALS))
    line_bytes: int = 0
    final_bytes: int = 0
    point: bytes | None = None
    closed: bool = False
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def last_seq(self) -> int:
        """Number of the newest event."""
        return self.lines[-1].seq if self.lines else 0

    @property
    def size(self) -> int:
        """Bytes, nearly."""
        return self.line_bytes + self.final_bytes + len(self.point or b"") + len(self.title.about)

    def add(self, line: Line) -> None:
        """Add an event, once; what is before a gap is kept as far as it is final."""
        if line.seq <= self.last_seq:
            return
        if self.lines and line.seq != self.last_seq + 1:
            while self.lines:
                self._age()
        self.lines.append(line)
        self.line_bytes += len(line.text)
        while len(self.lines) > LINES or (self.line_bytes > LINE_BYTES and len(self.lines) > 1):
            self._age()

    def _age(self) -> None:
        line = self.lines.popleft()
        self.line_bytes -= len(line.text)
        if line.final:
            if len(self.finals) == FINALS:
                self.final_bytes -= len(self.finals[0].text)
            self.finals.append(line)
            self.final_bytes += len(line.text)

    def wake(self) -> None:
        """Tell those who wait for more."""
        self.grown.set()
        self.grown = asyncio.Event()


class Ledger:
    """Keeps streams for gateways.

    Args:
        capacity: bytes of all streams.
        clock: seconds, of a steady clock.
    """

    def __init__(self, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._volumes: dict[str, _Volume] = {}
        self._size = 0
        self._tickets = Drawer(clock)

    async def write(self, batch: Sequence[Write]) -> list[Verdict]:
        """Take what a gateway has; a verdict for each, in order."""
        self._expire()
        return [self._write(write) for write in batch]

    async def claim(self, stream: str, token: str, tenant: str) -> Record | None:
        """Give a stream to whoever asks and may have it; None when there is none, or it is another's.

        From then on whoever had it before is fenced off.
        """
        self._expire()
        volume = self._volumes.get(stream)
        if (
            volume is None
            or volume.title.tenant != tenant
            or not secrets.compare_digest(volume.title.token.encode(), token.encode())
        ):
            return None
        volume.epoch += 1
        volume.touched = self._clock()
        return self._record(stream, volume, 0)

    async def read(self, stream: str, after_seq: int, seconds: float) -> Record | None:
        """A stream's events after ``after_seq``; None when it is not here (any more).

        Of what is no longer kept only final text comes. Where there is nothing yet, waits for it so long.
        """
        self._expire()
        volume = self._volumes.get(stream)
        if volume is None:
            return None
        if volume.last_seq <= after_seq and not volume.closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(volume.grown.wait(), seconds)
            volume = self._volumes.get(stream)
        return None if volume is None else self._record(stream, volume, after_seq)

    async def put_ticket(self, key: str, identity: Identity, seconds: float, *, once: bool) -> bool:
        """Keep what a ticket is good for, see :class:`~workers.access.tickets.Shelf`."""
        return await self._tickets.put_ticket(key, identity, seconds, once=once)

    async def take_ticket(self, key: str) -> Identity | None:
        """What a ticket is good for."""
        return await self._tickets.take_ticket(key)

    def _write(self, write: Write) -> Verdict:
        volume = self._volumes.get(write.stream)
        if volume is not None and write.epoch < volume.epoch:
            return Verdict.FENCED
        if volume is None or write.whole:
            if not write.whole or write.title is None:
                return Verdict.UNKNOWN
            if volume is None and self._size >= self._capacity:
                return Verdict.FULL
            before = volume
            volume = _Volume(write.title, write.epoch, 0.0)
            if before is not None:
                self._size -= before.size
                volume.grown = before.grown
            self._volumes[write.stream] = volume
        elif write.lines and volume.lines and write.lines[0].seq > volume.last_seq + 1:
            return Verdict.UNKNOWN  # a write was lost on the way
        else:
            self._size -= volume.size
        volume.epoch = write.epoch
        volume.touched = self._clock()
        volume.title = write.title or volume.title
        volume.point = write.point or volume.point
        volume.closed = volume.closed or write.closed
        for line in write.lines:
            volume.add(line)
        self._size += volume.size
        if write.lines or write.closed:
            volume.wake()
        return Verdict.WRITTEN

    def _record(self, stream: str, volume: _Volume, after_seq: int) -> Record:
        lines = tuple(_after(volume.finals, after_seq)) + tuple(_after(volume.lines, after_seq))
        return Record(stream, volume.epoch, volume.title, lines, volume.point, volume.closed)

    def _expire(self) -> None:
        now = self._clock()
        for stream, volume in list(self._volumes.items()):
            if now - volume.touched > volume.title.seconds:
                self._size -= volume.size
                del self._volumes[stream]
                volume.wake()


def _after(lines: Sequence[Line] | deque[Line], seq: int) -> Iterator[Line]:
    """Those after a number, without walking through all that are before it."""
    newer = []
    for line in reversed(lines):
        if line.seq <= seq:
            break
        newer.append(line)
    return reversed(newer)
