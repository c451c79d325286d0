"""A gateway's side of the :mod:`~workers.ledger`: writes of all streams in one call per tick.

An event is seen by nobody before the ledger has it, so that a client never knows more than the gateway that
takes its stream over. That costs a call's time, some milliseconds. When the ledger does not answer, events go
out without it: streams then depend on this gateway alone, as if there were no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from pipeline.wire.events import Event, UtteranceText
from workers.access.identity import Identity
from workers.access.tickets import Shelf
from workers.eventlog import Entry, EventLog
from workers.ledger import Line, Record, Title, Verdict, Write
from workers.metrics import Metrics
from workers.protocols import WorkerLostError
from workers.published import Published

TICK = 0.01
"""Least seconds from one write to the next; the first after a pause goes at once."""

ANSWER_SECONDS = 1.0
"""After how long without an answer events go out without the ledger."""

TOUCH_SECONDS, RETRY_SECONDS = 5.0, 1.0
"""How often the ledger is told that a stream is still here, and how often it is tried when it is away."""

BATCH_BYTES = 1024 * 1024
"""Most bytes of one call, but for a single stream's."""

WAIT_SECONDS = 5.0
"""How long a question for more events of a stream waits in the ledger."""

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


class Store(Shelf, Protocol):
    """A :class:`~workers.ledger.Ledger`, wherever it runs; each call may raise ``WorkerLostError``."""

    async def write(self, batch: Sequence[Write]) -> list[Verdict]:
        """Take what a gateway has."""

    async def claim(self, stream: str, token: str, tenant: str) -> Record | None:
        """Give a stream to whoever asks and may have it."""

    async def read(self, stream: str, after_seq: int, seconds: float) -> Record | None:
        """A stream's events."""


class Book:
    """One stream of this gateway, on its way into the ledger.

    Args:
        stream: whose log holds events until they are released.
        title: makes it, for the ledger.
        epoch: under which the stream is had.
        whole: whether the ledger has nothing of it yet.
        changed: told when there is something to write.
        fenced: told when another gateway has the stream.
    """

    def __init__(
        self,
        stream: Published,
        title: Callable[[], Title],
        epoch: int,
        *,
        whole: bool,
        changed: Callable[[Book], None],
        fenced: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.fenced = fenced
        # Whether the next write has to bring everything, and whether events wait for it.
        self.whole = whole
        self.waits = True
        # To be done with the next write, and with the one under way.
        self.settled: list[asyncio.Future[None]] = []
        self.settling: list[asyncio.Future[None]] = []
        self._title = title
        self._epoch = epoch
        self._changed = changed
        self._point: bytes | None = None
        # What the ledger does not have yet.
        self._lines: list[Line] = []
        self._new_title = self._new_point = False

    def append(self, event: Event, *, last: bool = False) -> None:
        """Add an event to the stream's log, to be seen once the ledger has it."""
        entry = self.stream.log.append(event, last=last)
        if not self.whole:
            self._lines.append(_line(entry))
        if not self.waits:
            self.stream.log.release(event.seq)
        self._changed(self)

    def go_on_from(self, point: bytes) -> None:
        """Note where another gateway would go on; it is in the ledger before the next event is seen."""
        self._point, self._new_point = point, True

    def retitle(self) -> None:
        """Note that the title has changed; it goes with the next event."""
        self._new_title = True

    def take(self) -> tuple[Write, int]:
        """What is to be written, and the number of the event behind which its events can be seen."""
        log = self.stream.log
        unseen = log.unseen()
        last = unseen[-1].event.seq if unseen else log.last_seq
        whole, lines = self.whole, tuple(self._lines)
        if whole:
            lines = tuple(map(_line, [*self._old_finals(), *log.kept(0), *unseen]))
        write = Write(
            self.stream.id,
            self._epoch,
            lines,
            self._title() if whole or self._new_title else None,
            self._point if whole or self._new_point else None,
            log.ended,
            whole,
        )
        self._lines = []
        self.whole = self._new_title = self._new_point = False
        return write, last

    def _old_finals(self) -> list[Entry]:
        first = self.stream.log.first_seq
        finals = [*self.stream.transcripts, *self.stream.translations]
        scratch = EventLog()
        return [scratch.append(event) for event in sorted(finals, key=_seq) if event.seq < first]


class Bookkeeper:
    """Writes a gateway's streams into the ledger, and reads those of others.

    Args:
        ledger: that gateways share.
        metrics: where to tell whether it answers.
        answer_seconds: after how long without an answer events go out without it.
        touch_seconds: how often it is told that a stream is still here.
        retry_seconds: how often it is tried when it is away.
    """

    def __init__(
        self,
        ledger: Store,
        metrics: Metrics,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        touch_seconds: float = TOUCH_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._answer_seconds = answer_seconds
        self._touch_seconds = touch_seconds
        self._retry_seconds = retry_seconds
        self._books: set[Book] = set()
        # Those with something to write, in the order in which it came.
        self._changed: dict[Book, None] = {}
        self._wake = asyncio.Event()
        self._answers = True
        metrics.ledger_up.set(1)

    @property
    def answers(self) -> bool:
        """Whether the ledger did when it was last tried."""
        return self._answers

    def keeps(self, seconds: float) -> float:
        """For how long the ledger is to keep a stream that waits for its client for ``seconds``."""
        return seconds + 3 * self._touch_seconds

    def open(
        self,
        stream: Published,
        title: Callable[[], Title],
        fenced: Callable[[], None],
        *,
        epoch: int = 1,
        known: bool = False,
    ) -> Book:
        """Begin to write a stream; ``known`` when the ledger has it already.

        Args:
            stream: whose log holds events until they are released.
            title: makes it, for the ledger.
            fenced: told when another gateway has the stream.
            epoch: under which it is had.
            known: whether the ledger has all events so far.
        """
        book = Book(stream, title, epoch, whole=not known, changed=self._note, fenced=fenced)
        book.waits = self._answers
        self._books.add(book)
        return book

    def close(self, book: Book) -> None:
        """Write no more of a stream than what has been appended."""
        self._books.discard(book)

    async def settle(self, book: Book) -> None:
        """Wait until all of a stream has been written, or will not be; it may be fenced by then."""
        if not self._answers:
            return
        settled = asyncio.get_running_loop().create_future()
        book.settled.append(settled)
        self._note(book)
        await settled

    async def claim(self, stream: str, token: str, tenant: str) -> Record | None:
        """Take a stream over; None when it is not there for this tenant with this token.

        Raises:
            WorkerLostError: the ledger does not answer.
        """
        return await self._answer(self._ledger.claim(stream, token, tenant), 0.0)

    async def read(self, stream: str, after_seq: int, seconds: float = 0.0) -> Record | None:
        """A stream's events after ``after_seq``, as :meth:`~workers.ledger.Ledger.read`.

        Raises:
            WorkerLostError: the ledger does not answer.
        """
        return await self._answer(self._ledger.read(stream, after_seq, seconds), seconds)

    async def put_ticket(self, key: str, identity: Identity, seconds: float, *, once: bool) -> bool:
        """Keep what a ticket is good for; a bookkeeper is a :class:`~workers.access.tickets.Shelf`.

        Raises:
            WorkerLostError: the ledger does not answer.
        """
        return await self._answer(self._ledger.put_ticket(key, identity, seconds, once=once), 0.0)

    async def take_ticket(self, key: str) -> Identity | None:
        """What a ticket is good for.

        Raises:
            WorkerLostError: the ledger does not answer.
        """
        return await self._answer(self._ledger.take_ticket(key), 0.0)

    async def run(self) -> None:
        """Write until cancelled."""
        loop = asyncio.get_running_loop()
        touched = loop.time()
        while True:
            if not self._answers:
                await self._come_back()
            left = touched + self._touch_seconds - loop.time()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    await self._wake.wait()
            except TimeoutError:
                touched = loop.time()
                self._changed |= dict.fromkeys(self._books)
            self._wake.clear()
            if self._changed:
                await self._write()
                await asyncio.sleep(TICK)

    async def _come_back(self) -> None:
        """Wait until the ledger answers, one question at a time: those to a process that hangs pile up."""
        while not self._answers:
            try:
                await self._ledger.write(())
            except WorkerLostError:
                await asyncio.sleep(self._retry_seconds)
            else:
                self._answers = True
        logger.warning("the ledger answers again")
        self._metrics.ledger_up.set(1)
        self._changed |= dict.fromkeys(self._books)
        self._wake.set()

    async def _write(self) -> None:
        batch: list[tuple[Book, Write, int]] = []
        size = 0
        while self._changed and size < BATCH_BYTES:
            book = next(iter(self._changed))
            del self._changed[book]
            write, last = book.take()
            book.settling, book.settled = book.settled, []
            size += sum(len(line.text) for line in write.lines)
            batch.append((book, write, last))
        if self._changed:
            self._wake.set()
        try:
            verdicts = await self._answer(self._ledger.write([write for _, write, _ in batch]), 0.0)
        except WorkerLostError as error:
            self._changed |= {book: None for book, _, _ in batch}
            self._lose(error)
            return
        for (book, _, last), verdict in zip(batch, verdicts, strict=True):
            self._judge(book, last, verdict)

    def _judge(self, book: Book, last: int, verdict: Verdict) -> None:
        if verdict is Verdict.UNKNOWN:
            book.whole = True
            book.settled += book.settling
            self._note(book)
            return
        book.waits = verdict is not Verdict.FULL
        if verdict is Verdict.FENCED:
            self.close(book)
            self._changed.pop(book, None)
            book.fenced()
        elif verdict is Verdict.FULL:
            book.whole = True  # with the next touch there may be room
            self._let_go(book)
        else:
            book.stream.log.release(last)
        _settle(book.settling)

    def _lose(self, error: WorkerLostError) -> None:
        """Go on without the ledger, and write everything when it is back."""
        if self._answers:
            logger.error("the ledger does not answer, streams cannot go on on other gateways: %s", error)
            self._answers = False
            self._metrics.ledger_up.set(0)
        for book in self._books | set(self._changed):
            book.whole, book.waits = True, False
            self._let_go(book)
            _settle(book.settling + book.settled)

    def _let_go(self, book: Book) -> None:
        unseen = book.stream.log.unseen()
        if unseen:
            book.stream.log.release(unseen[-1].event.seq)

    def _note(self, book: Book) -> None:
        self._changed[book] = None
        self._wake.set()

    async def _answer(self, call: Awaitable[Answer], seconds: float) -> Answer:
        try:
            async with asyncio.timeout(seconds + self._answer_seconds):
                return await call
        except TimeoutError:
            raise WorkerLostError(f"no answer came for {self._answer_seconds:g} s") from None


def _settle(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _line(entry: Entry) -> Line:
    final = isinstance(entry.event, UtteranceText) and entry.event.final
    return Line(entry.event.seq, entry.text, final)


def _seq(event: Event) -> int:
    return event.seq
