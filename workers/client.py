"""A client of protocol version 1: audio and commands in, typed events out, over broken connections.

It lies beside the server because it needs sockets, which ``pipeline`` may not have, and because ``surtitle
listen`` uses it. It imports nothing of the server, no torch and no Ray.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from pipeline.config import AudioFormat
from pipeline.errors import SurtitleError
from pipeline.wire import commands, events
from pipeline.wire.commands import encode_command
from pipeline.wire.events import Event, decode
from pipeline.wire.protocol import SUBPROTOCOL, SUPERSEDED
from workers.links import DEAD_SECONDS, PING_SECONDS, guard
from workers.protocols import StreamError

DEFAULT_URL = "ws://127.0.0.1:8765/v1/stream"

FIRST_DELAY, LONGEST_DELAY = 0.1, 3.0
"""Seconds between two attempts to come back: twice as long each time, and some of it at random."""

PASSING = frozenset(("at_capacity", "shutting_down"))
"""Why one gateway refuses what another one, or the same one later, may not."""

Said: TypeAlias = bytes | commands.Flush | commands.Mark | commands.Update
"""What a client says after ``start``: audio of at most 64 KiB, or a command."""


async def converse(
    url: str | Sequence[str],
    start: commands.Start,
    said: AsyncIterable[Said],
    *,
    patience: float | None = None,
    key: str | None = None,
    ping_seconds: float = PING_SECONDS,
    dead_seconds: float = DEAD_SECONDS,
) -> AsyncIterator[Event]:
    """Hold one conversation; when its connection breaks, come back and go on where it was.

    Every event of the stream comes out once, in order, whatever happens to connections; besides, there is a
    ``ready`` for every time that the client came back. What was said is kept until it is acknowledged. Who
    leaves the iterator before its end has left for good: the server ends the stream.

    Args:
        url: the server's ``/v1/stream``; or those of several gateways, which are tried in turn.
        start: how the stream starts.
        said: audio and commands; pacing is theirs. Behind the last, ``stop`` is said.
        patience: seconds for which to try to come back; by default as long as the server keeps the stream.
        key: API key or token, where the server wants one.
        ping_seconds: how often the server is asked for a sign of life.
        dead_seconds: after how long without any the connection counts as broken.

    Raises:
        StreamError: the server cannot be reached, ended the stream with a fatal error (whose code it has), or
            the connection was lost for too long (``connection_lost``).
        SurtitleError: whatever ``said`` raises.
    """
    speech = _Speech(said, start.audio)
    stream = _Stream((url,) if isinstance(url, str) else tuple(url), start, patience, key)
    pings = {"ping_seconds": ping_seconds, "dead_seconds": dead_seconds}
    try:
        while True:
            connection = await stream.connect()
            try:
                async with aclosing(_until_broken(connection, stream, speech, **pings)) as conversing:
                    async for event in conversing:
                        yield event
            finally:
                await connection.close()  # with code 1000, whatever made us leave
            if stream.done:
                return
    finally:
        await speech.close()


class _Stream:
    """Where a conversation is, as far as its server knows."""

    def __init__(
        self, urls: Sequence[str], start: commands.Start, patience: float | None, key: str | None
    ) -> None:
        self._urls = urls
        # Attempts since one got through; each goes to the next gateway.
        self._attempts = 0
        self._at = 0
        self._start = start
        self._patience = patience
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._ready: events.Ready | None = None
        self._seq = 0
        self.done = False
        # When the last connection that got through broke.
        self._broken: float | None = None

    async def connect(self) -> ClientConnection:
        """A connection on which ``start`` has been said.

        Raises:
            StreamError: there is none to be had.
        """
        while True:
            try:
                connection = await connect(
                    self._url,
                    subprotocols=[Subprotocol(SUBPROTOCOL)],
                    additional_headers=self._headers,
                    compression=None,
                    ping_interval=None,  # see workers.links
                )
                await connection.send(encode_command(self._first()))
                return connection
            except (OSError, InvalidHandshake, InvalidURI, TimeoutError, ConnectionClosed) as error:
                await self._next(
                    StreamError(f"no Surtitle server answers at {self._url} ({error})", code="unreachable")
                )

    @property
    def _url(self) -> str:
        return self._urls[self._at]

    async def _next(self, reason: StreamError) -> None:
        """Turn to the next gateway, at once as long as not all of them have been tried.

        Raises:
            StreamError: they have, and there is no stream yet or it has been away for too long.
        """
        self._at = (self._at + 1) % len(self._urls)
        self._attempts += 1
        rounds, untried = divmod(self._attempts, len(self._urls))
        if untried:
            return
        if self._ready is None:
            raise reason
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (rounds - 1)) * random.uniform(0.5, 1.0)
        if asyncio.get_running_loop().time() + delay > self._deadline:
            raise StreamError(
                f"the connection was lost and could not be had again: {reason}", code="connection_lost"
            )
        await asyncio.sleep(delay)

    @property
    def _deadline(self) -> float:
        assert self._ready is not None
        if self._broken is None:
            self._broken = asyncio.get_running_loop().time()
        limit = self._ready.limits.get("resume_seconds", 0.0)
        return self._broken + (limit if self._patience is None else self._patience)

    def _first(self) -> commands.Start:
        if self._ready is None:
            return self._start
        resume = commands.Resume(self._ready.stream_id, self._ready.token, self._seq)
        return replace(self._start, resume=resume)

    async def take(self, event: Event) -> bool:
        """Take note of an event; returns whether it is one of the stream.

        Raises:
            StreamError: it ends the stream, or all gateways refuse it.
        """
        if isinstance(event, events.Error) and not event.stream_id:
            error = StreamError(event.message, code=event.code)
            # A gateway whose ledger does not answer knows nothing of the streams of others.
            passing = PASSING | {"unknown_stream"} if len(self._urls) > 1 else PASSING
            if event.code not in passing or (self._ready is None and len(self._urls) == 1):
                raise error
            await self._next(error)
            return False
        self._seq = event.seq
        match event:
            case events.Ready():
                self._ready = event
                self._broken = None
                self._attempts = 0
            case events.Done():
                self.done = True
            case events.Error(fatal=True):
                raise StreamError(event.message, code=event.code)
        return True

    async def broke(self, connection: ClientConnection) -> None:
        """The connection has ended before the stream.

        Raises:
            StreamError: it is of no use to come back.
        """
        error = StreamError(
            f"the connection to {self._url} ended before the stream (close code {connection.close_code})",
            code="connection_lost",
        )
        if connection.close_code == SUPERSEDED:
            raise error
        if self._ready is None:
            await self._next(error)
        elif self._broken is None:
            self._broken = asyncio.get_running_loop().time()


class _Speech:
    """What is said, kept until it is acknowledged."""

    def __init__(self, said: AsyncIterable[Said], audio: AudioFormat) -> None:
        self._said = aiter(said)
        self._audio = audio
        # What is kept, each with the position in bytes of audio where it stands, and where the next will.
        self._kept: deque[tuple[int, Said | commands.Stop]] = deque()
        self._end = 0
        self._stopped = False
        # The next thing to be said; it outlives the connection on which it was waited for.
        self._coming: asyncio.Task[Said | commands.Stop] | None = None
        self._failure: SurtitleError | None = None

    def acknowledge(self, seconds: float) -> None:
        """Nothing before this time has to be said again; in compressed audio nobody knows where that is."""
        if self._audio.compressed:
            return
        done = int(seconds * self._audio.sample_rate) * self._audio.bytes_per_frame
        while self._kept:
            position, item = self._kept[0]
            if position + (len(item) if isinstance(item, bytes) else 1) > done:
                return
            self._kept.popleft()

    async def send(self, connection: ClientConnection, position: int) -> None:
        """Say everything from a position on; commands that stand there may be said again.

        An error of what is said is kept for :meth:`check`, and the connection cut.
        """
        try:
            for at, item in list(self._kept):
                if not isinstance(item, bytes):
                    if at >= position:
                        await connection.send(encode_command(item))
                elif at + len(item) > position:
                    await connection.send(item[max(0, position - at) :])
            while not self._stopped:
                item = await self._next()
                await connection.send(item if isinstance(item, bytes) else encode_command(item))
        except SurtitleError as error:
            self._failure = error
            connection.transport.close()

    def check(self) -> None:
        """Raise what went wrong with what is said, if anything did."""
        if self._failure is not None:
            raise self._failure

    async def _next(self) -> Said | commands.Stop:
        if self._coming is None:
            self._coming = asyncio.create_task(self._read())
        item = await asyncio.shield(self._coming)
        self._coming = None
        self._kept.append((self._end, item))
        if isinstance(item, bytes):
            self._end += len(item)
        self._stopped = isinstance(item, commands.Stop)
        return item

    async def _read(self) -> Said | commands.Stop:
        return await anext(self._said, commands.Stop())

    async def close(self) -> None:
        """Let go of what is said."""
        if self._coming is not None:
            self._coming.cancel()
            with suppress(asyncio.CancelledError, SurtitleError):
                await self._coming


async def _until_broken(
    connection: ClientConnection, stream: _Stream, speech: _Speech, **pings: float
) -> AsyncGenerator[Event]:
    """The events of one connection; what is said goes out from the first ``ready`` on."""
    sender: asyncio.Task[None] | None = None
    clock = asyncio.get_running_loop().time
    heard = clock()
    guarding = asyncio.create_task(guard(connection, lambda: heard, **pings))
    try:
        async for message in connection:
            heard = clock()
            event = decode(str(message))
            if event is None:
                continue
            if not await stream.take(event):
                return
            if isinstance(event, events.Ack):
                speech.acknowledge(event.audio_time)
            elif isinstance(event, events.Ready) and sender is None:
                # Of several, those of connections that broke before bringing them included, all tell the
                # position of now.
                sender = asyncio.create_task(speech.send(connection, event.bytes_received))
            yield event
    except ConnectionClosed:
        pass
    finally:
        guarding.cancel()
        if sender is not None:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
    speech.check()
    if not stream.done:
        await stream.broke(connection)
