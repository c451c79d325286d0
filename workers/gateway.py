"""The server: WebSocket connections of clients and viewers, and a few pages over HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from pipeline.errors import ProtocolError, SurtitleError
from pipeline.wire import commands, events
from pipeline.wire.events import Event, Sequencer, encode
from pipeline.wire.protocol import (
    INTERNAL,
    NORMAL,
    POLICY,
    SUBPROTOCOL,
    SUPERSEDED,
    TOO_SLOW,
    Limits,
    ServerProtocol,
    close_code,
)
from workers.endpoints import Answer, Endpoints, Viewing
from workers.metrics import Metrics
from workers.protocols import StreamError
from workers.pump import Pump
from workers.registry import Registry
from workers.sessions import LiveStream

logger = logging.getLogger(__name__)

START_SECONDS = 10.0
"""How long a client may take to send ``start``."""

SEND_SECONDS = 10.0
"""How long one event may take to leave before its reader counts as too slow."""

PING_SECONDS = 20.0
DEAD_SECONDS = 40.0
"""Pings go out this often, and a peer whose TCP acknowledges nothing for that long is gone.

A missing pong proves nothing: a client that sends faster than real time is not read from for a
while, and its pongs stand in line behind its audio.
"""

HARD_LIMIT = 1024 * 1024
"""Frames beyond this are refused before they are read, without an ``error`` event."""

RETRY_SECONDS = 5.0


class Gateway:
    """Serves protocol version 1 and the pages around it.

    Args:
        encoders: pumps of the encoder workers; the caller starts and runs them.
        decoders: pumps of the decoder workers.
        metrics: where to count.
        model: the model's name, for ``ready``.
        limits: what clients must keep to.
        send_seconds: how long one event may take to leave before its reader counts as too slow.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        encoders: Sequence[Pump],
        decoders: Sequence[Pump],
        *,
        metrics: Metrics,
        model: str,
        limits: Limits,
        send_seconds: float = SEND_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.registry = Registry(encoders, decoders, model=model, limits=limits, clock=clock, metrics=metrics)
        self._endpoints = Endpoints(self.registry, metrics)
        self._metrics = metrics
        self._limits = limits
        self._send_seconds = send_seconds
        self._clock = clock
        # For each stream that has a connection: resolved when another connection takes it over.
        self._owners: dict[str, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def serve(self, sock: socket.socket) -> AsyncIterator[Server]:
        """Accept connections of a listening socket; leaving ends all streams, then connections."""
        server = await serve(
            self._handle,
            sock=sock,
            process_request=self._process_request,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            select_subprotocol=_select_subprotocol,
            compression=None,  # speech hardly shrinks, and 50 KB per connection are many at a thousand
            max_size=HARD_LIMIT,
            max_queue=4,
            open_timeout=START_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=None,
            close_timeout=5,
            server_header=None,
        )
        try:
            yield server
        finally:
            await self.registry.close()
            server.close(code=1012)
            await server.wait_closed()

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.method != "GET":
            return _response(connection, Answer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is accepted\n"))
        upgrade = "websocket" in request.headers.get("Upgrade", "").lower()
        answer = self._endpoints.get(request.path, upgrade=upgrade)
        return _response(connection, answer) if isinstance(answer, Answer) else None

    async def _handle(self, connection: ServerConnection) -> None:
        _give_up_on_the_dead(connection)
        assert connection.request is not None
        try:
            match self._endpoints.get(connection.request.path, upgrade=True):
                case None:
                    await self._speak(connection)
                case Viewing() as viewing:
                    await self._view(connection, viewing)
        except ConnectionClosed:
            return
        except Exception:
            logger.exception("a connection failed")
            await connection.close(INTERNAL)

    async def _view(self, connection: ServerConnection, viewing: Viewing) -> None:
        self._metrics.viewers.inc()
        try:
            await self._until_either_ends(
                connection, self._write(connection, viewing.stream, 0, viewing.shows), _drain(connection)
            )
        finally:
            self._metrics.viewers.dec()

    async def _speak(self, connection: ServerConnection) -> None:
        protocol = ServerProtocol(self._limits)
        try:
            stream, after_seq = await self._start(connection, protocol)
        except SurtitleError as error:
            await self._refuse(connection, error)
            return
        superseded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        previous = self._owners.get(stream.id)
        if previous is not None:
            previous.set_result(None)
        self._owners[stream.id] = superseded
        self.registry.attached(stream)
        epoch = stream.attach()
        try:
            await self._until_either_ends(
                connection,
                self._write(connection, stream, after_seq, lambda event: True),
                self._read(connection, protocol, stream, epoch),
                superseded,
            )
        finally:
            if self._owners[stream.id] is superseded:
                del self._owners[stream.id]
                close = connection.protocol.close_rcvd
                self.registry.detached(stream, left=close is not None and close.code == NORMAL)
        if superseded.done():
            await connection.close(SUPERSEDED, "another connection resumed the stream")

    async def _start(self, connection: ServerConnection, protocol: ServerProtocol) -> tuple[LiveStream, int]:
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await connection.recv()
        except TimeoutError:
            raise ProtocolError(
                f"no start came within {START_SECONDS:g} s; the first message must be start",
                code="not_started",
            ) from None
        start = cast(commands.Start, protocol.receive(first))
        if start.resume is not None:
            return self.registry.resume(start.resume), start.resume.after_seq
        return await self.registry.open(start), 0

    async def _refuse(self, connection: ServerConnection, error: SurtitleError) -> None:
        """Answer a connection that has no stream."""
        self._metrics.errors.labels(error.code).inc()
        event = events.Error(
            code=error.code,
            message=str(error),
            fatal=True,
            retry_after=RETRY_SECONDS if error.code == "at_capacity" else None,
        )
        await connection.send(encode(Sequencer("").stamp(event, server_time=self._clock())))
        await connection.close(close_code(error.code), error.code)

    async def _read(
        self, connection: ServerConnection, protocol: ServerProtocol, stream: LiveStream, epoch: int
    ) -> None:
        """Carry the client's messages to its stream."""
        async for message in connection:
            try:
                received = protocol.receive(message)
            except ProtocolError as error:
                if error.fatal:
                    stream.fail(error)
                    self.registry.end(stream)
                    return
                stream.refuse(error)
                continue
            if isinstance(received, bytes):
                await stream.feed(received, epoch)
            elif not isinstance(received, commands.Start):
                stream.command(received)

    async def _write(
        self,
        connection: ServerConnection,
        stream: LiveStream,
        after_seq: int,
        shows: Callable[[Event], bool],
    ) -> None:
        """Send a stream's events, and close the connection after the last."""
        code = NORMAL
        try:
            async for entry in stream.log.follow(after_seq):
                if shows(entry.event):
                    async with asyncio.timeout(self._send_seconds):
                        await connection.send(entry.text)
                if isinstance(entry.event, events.Error) and entry.event.fatal:
                    code = close_code(entry.event.code)
        except (TimeoutError, StreamError):
            self._metrics.dropped.inc()
            code = TOO_SLOW
        await connection.close(code)

    async def _until_either_ends(
        self,
        connection: ServerConnection,
        writing: Coroutine[None, None, None],
        reading: Coroutine[None, None, None],
        *others: asyncio.Future[None],
    ) -> None:
        """Read and write until all is written, the connection is gone, or one of ``others`` is done.

        Reading alone may end earlier, or be held up by a full stream, and tells nothing.
        """
        writer, reader = asyncio.create_task(writing), asyncio.create_task(reading)
        closed = asyncio.create_task(connection.wait_closed())
        tasks = (writer, reader, closed)
        try:
            await asyncio.wait((writer, closed, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionClosed):
                raise result


async def _drain(connection: ServerConnection) -> None:
    """Read on, so that a viewer's close frame is seen; a viewer has nothing to say."""
    async for _ in connection:
        await connection.close(POLICY, "captions are read only")


def _select_subprotocol(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Speak version 1 also with those who offer nothing, or something else besides."""
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def _response(connection: ServerConnection, answer: Answer) -> Response:
    response = connection.respond(answer.status, answer.body)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = answer.content_type
    return response


def _give_up_on_the_dead(connection: ServerConnection) -> None:
    sock = connection.transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_SECONDS * 1000))
