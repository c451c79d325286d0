"""The server: WebSocket connections of clients and viewers, and a few pages over HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from pipeline.errors import ProtocolError, SurtitleError
from pipeline.wire import commands, events
from pipeline.wire.events import Event, Sequencer
from pipeline.wire.protocol import (
    INTERNAL,
    NORMAL,
    POLICY,
    SUBPROTOCOL,
    SUPERSEDED,
    TOO_SLOW,
    Limits,
    close_code,
)
from workers.access.guard import Guard, Visitor
from workers.access.identity import AccessError
from workers.bookkeeper import Bookkeeper
from workers.clock import unix_clock
from workers.dialects.base import Dialect, Reply, Step
from workers.dialects.native import START_SECONDS, Native
from workers.dialects.routes import REALTIME, dialect_at
from workers.endpoints import TICKETS_PATH, Endpoints, refusal, ticket
from workers.eventlog import Entry
from workers.fleet import Fleet
from workers.incoming import Incoming
from workers.links import DEAD_SECONDS, PING_SECONDS, give_up_on_the_dead, guard, until_expired
from workers.metrics import Metrics
from workers.protocols import StreamError
from workers.published import Published
from workers.registry import Registry
from workers.sessions import LiveStream
from workers.sinks.board import Board
from workers.sinks.config import SinkSettings
from workers.site import Answer
from workers.tracing import Tracing
from workers.watching import CueViewing, Viewing

logger = logging.getLogger(__name__)

SEND_SECONDS = 10.0
"""How long one event may take to leave before its reader counts as too slow."""

HARD_LIMIT = 1024 * 1024
"""Frames beyond this are refused before they are read, without an ``error`` event."""

_NO_PAGE = Answer(HTTPStatus.UPGRADE_REQUIRED, "this is a WebSocket endpoint.\n")


class Gateway:
    """Serves protocol version 1 and the pages around it.

    Args:
        encoders: workers that take audio; the caller starts and runs them.
        decoders: workers that take speech events.
        metrics: where to count.
        model: the model's name, for ``ready``.
        limits: what clients must keep to.
        languages: ISO 639-1 codes of those that the model was made for.
        context: whether it was made to be told a context.
        sinks: where captions can be pushed to.
        guard: who lets people in; everybody, by default.
        tls: with what connections are encrypted; ``None`` for not at all.
        keeper: writes streams into the ledger that gateways share; ``None`` where there is no other gateway.
        send_seconds: how long one event may take to leave before its reader counts as too slow.
        ping_seconds: how often clients and viewers are asked for a sign of life.
        dead_seconds: after how long without any a connection is cut.
        clock: Unix time in seconds that does not jump; by default one that starts now.
        tracing: follows what becomes of utterances, if somebody wants to know.
    """

    def __init__(
        self,
        encoders: Fleet,
        decoders: Fleet,
        *,
        metrics: Metrics,
        model: str,
        limits: Limits,
        languages: Sequence[str] = (),
        context: bool = False,
        sinks: Sequence[SinkSettings] = (),
        guard: Guard | None = None,
        tls: ssl.SSLContext | None = None,
        keeper: Bookkeeper | None = None,
        send_seconds: float = SEND_SECONDS,
        ping_seconds: float = PING_SECONDS,
        dead_seconds: float = DEAD_SECONDS,
        clock: Callable[[], float] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        clock = clock or unix_clock()
        self.registry = Registry(
            encoders,
            decoders,
            model=model,
            limits=limits,
            clock=clock,
            metrics=metrics,
            keeper=keeper,
            gone=self._gone,
            tracing=tracing,
        )
        about = {"model": model, "languages": languages, "context": context, "limits": limits.as_dict()}
        self._endpoints = Endpoints(self.registry, metrics, about)
        self._languages = languages
        self._sinks = Board(sinks, languages=languages, clock=clock, metrics=metrics)
        self._guard = guard or Guard()
        if keeper is not None:
            self._guard.tickets.shelf = keeper
        self._tls = tls
        # Who has been let in on which connection.
        self._visitors: WeakKeyDictionary[ServerConnection, Visitor] = WeakKeyDictionary()
        self._metrics, self._limits = metrics, limits
        self._send_seconds = send_seconds
        self._ping_seconds, self._dead_seconds = ping_seconds, dead_seconds
        self._clock = clock
        # For each stream that has a connection: resolved when another connection takes it over.
        self._owners: dict[str, asyncio.Future[None]] = {}
        # Set while no stream has a connection.
        self._alone = asyncio.Event()
        self._alone.set()

    @asynccontextmanager
    async def serve(self, sock: socket.socket) -> AsyncIterator[Server]:
        """Accept connections of a listening socket; leaving ends all streams, then connections."""
        server = await serve(
            self._handle,
            sock=sock,
            ssl=self._tls,
            process_request=self._process_request,
            subprotocols=[Subprotocol(SUBPROTOCOL), Subprotocol(REALTIME)],
            select_subprotocol=_select_subprotocol,
            compression=None,  # speech hardly shrinks, and 50 KB per connection are many at a thousand
            max_size=HARD_LIMIT,
            max_queue=4,
            open_timeout=START_SECONDS,
            ssl_handshake_timeout=START_SECONDS if self._tls else None,
            ping_interval=None,  # see workers.links
            close_timeout=5,
            server_header=None,
        )
        try:
            yield server
        finally:
            await self.registry.close()
            await self._sinks.close()
            server.close(code=1012)
            await server.wait_closed()

    async def drain(self, seconds: float) -> None:
        """Take no new streams, and let those that run come to their end; at most for so long."""
        self.registry.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.registry.idle()
                await self._alone.wait()  # until their clients have been told

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        upgrade = any("websocket" in value.lower() for value in request.headers.get_all("Upgrade"))
        try:
            answer = await self._answer(connection, request, upgrade)
        except AccessError as error:
            self._metrics.refused.labels(error.code).inc()
            answer = refusal(error)
        return None if answer is None else _response(connection, answer)

    async def _answer(self, connection: ServerConnection, request: Request, upgrade: bool) -> Answer | None:
        """Let a request in and answer it; ``None`` for a WebSocket.

        Raises:
            AccessError: it is not let in.
        """
        peer = str(connection.remote_address[0])
        visitor = await self._guard.admit(peer, request.path, request.headers, upgrade=upgrade)
        if request.method == "POST" and urlsplit(request.path).path == TICKETS_PATH:
            return await ticket(self._guard.tickets, visitor.identity, request.path)
        if request.method != "GET":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is accepted\n")
        self._visitors[connection] = visitor
        if dialect_at(request.path, request.headers) is not None:
            return None if upgrade else _NO_PAGE
        if (stream_id := self._endpoints.stream_at(request.path)) is not None:
            await self.registry.find(stream_id)
        answer = self._endpoints.get(request.path, upgrade=upgrade, identity=visitor.identity)
        return answer if isinstance(answer, Answer) else None

    async def _handle(self, connection: ServerConnection) -> None:
        give_up_on_the_dead(connection, self._dead_seconds)
        assert connection.request is not None
        path, headers = connection.request.path, connection.request.headers
        visitor = self._visitors[connection]
        expires = visitor.identity.expires
        try:
            with until_expired(connection, None if expires is None else expires - self._guard.clock()):
                await self._serve(connection, path, headers, visitor)
        except ConnectionClosed:
            return
        except Exception:
            logger.exception("a connection failed")
            await connection.close(INTERNAL)

    async def _serve(
        self, connection: ServerConnection, path: str, headers: Headers, visitor: Visitor
    ) -> None:
        if (dialect := dialect_at(path, headers, self._languages)) is not None:
            await self._speak(connection, dialect, visitor)
            return
        match self._endpoints.get(path, upgrade=True, identity=visitor.identity):
            case None:
                await self._speak(connection, Native(self._limits), visitor)
            case Viewing() as viewing:
                await self._view(connection, self._show_captions(connection, viewing))
            case CueViewing() as viewing:
                await self._view(connection, self._show_cues(connection, viewing))

    async def _view(self, connection: ServerConnection, showing: Coroutine[None, None, None]) -> None:
        self._metrics.viewers.inc()
        try:
            began = asyncio.get_running_loop().time()
            await self._until_either_ends(connection, showing, _drain(connection), lambda: began)
        finally:
            self._metrics.viewers.dec()

    async def _show_captions(self, connection: ServerConnection, viewing: Viewing) -> None:
        follows_from = viewing.follows_from
        for text in viewing.missed():
            await self._send(connection, text)
        await self._write(
            connection,
            viewing.stream,
            follows_from,
            lambda entry: (entry.text,) if viewing.shows(entry.event) else (),
        )

    async def _show_cues(self, connection: ServerConnection, viewing: CueViewing) -> None:
        async for text in viewing.messages(self._clock):
            await self._send(connection, text)
        await connection.close(NORMAL)

    async def _send(self, connection: ServerConnection, text: str) -> None:
        """Send a message; the connection of one who does not read is closed."""
        try:
            async with asyncio.timeout(self._send_seconds):
                await connection.send(text)
        except TimeoutError:
            self._metrics.dropped.inc()
            await connection.close(TOO_SLOW)

    async def _speak(self, connection: ServerConnection, dialect: Dialect, visitor: Visitor) -> None:
        try:
            stream, after_seq, steps = await self._start(connection, dialect, visitor)
        except SurtitleError as error:
            await self._refuse(connection, dialect, error)
            return
        superseded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        previous = self._owners.get(stream.id)
        if previous is not None and not previous.done():
            previous.set_result(None)
        self._owners[stream.id] = superseded
        self._alone.clear()
        self.registry.attached(stream)
        epoch = stream.attach()
        seconds, size = stream.audio_received, stream.bytes_received

        def messages(entry: Entry) -> Iterable[str]:
            # Among what a client has missed may be the ready of a connection that broke before bringing it. A
            # client begins to send at the first one that it sees, so all of them have to tell where to.
            if isinstance(entry.event, events.Ready):
                event = replace(entry.event, audio_received=seconds, bytes_received=size)
                entry = Entry(event, events.encode(event))
            return dialect.messages(entry)

        incoming = Incoming(
            connection,
            dialect,
            stream,
            epoch,
            limits=self._limits,
            pace=partial(self._guard.pace, visitor),
            reply=partial(self._send, connection),
            end=partial(self.registry.end, stream),
        )
        try:
            await self._until_either_ends(
                connection,
                self._write(connection, stream, after_seq, messages, stream.log.delivered),
                incoming.run(steps),
                lambda: incoming.quiet_since,
                superseded,
            )
        finally:
            if self._owners[stream.id] is superseded:
                del self._owners[stream.id]
                if not self._owners:
                    self._alone.set()
                close = connection.protocol.close_rcvd
                left = not dialect.resumable or (close is not None and close.code == NORMAL)
                self.registry.detached(stream, left=left)
        if superseded.done():
            await connection.close(SUPERSEDED, "another connection resumed the stream")

    def _gone(self, stream: LiveStream) -> None:
        """Another gateway has the stream."""
        owner = self._owners.get(stream.id)
        if owner is not None and not owner.done():
            owner.set_result(None)

    async def _start(
        self, connection: ServerConnection, dialect: Dialect, visitor: Visitor
    ) -> tuple[LiveStream, int, Sequence[Step]]:
        """Talk to a client until it starts a stream or takes one up again.

        Returns:
            The stream, the ``seq`` of the last event that the client has, and what it said behind ``start``.
        """
        for text in dialect.greet():
            await self._send(connection, text)
        try:
            async with asyncio.timeout(dialect.start_seconds):
                steps = dialect.receive(await connection.recv())
                while not steps or not isinstance(start := steps[0], commands.Start):
                    for step in steps:
                        if isinstance(step, Reply):
                            await self._send(connection, step.text)
                    steps = dialect.receive(await connection.recv())
        except TimeoutError:
            raise ProtocolError(
                f"no start came within {dialect.start_seconds:g} s; the first message must be start",
                code="not_started",
            ) from None
        take_place = partial(self._guard.take_place, visitor)
        if start.resume is not None:
            running = self.registry.get(start.resume.stream_id)
            stream = await self.registry.resume(start.resume, visitor.identity.tenant, take_place)
            if stream is not running:
                self._sinks.attach(stream, stream.sinks)
            return stream, start.resume.after_seq, steps[1:]
        self._sinks.check(start)
        leave = take_place()
        try:
            stream = await self.registry.open(
                start, visitor.identity.tenant, leave, resumable=dialect.resumable
            )
        except BaseException:
            leave()
            raise
        self._sinks.attach(stream, start.sinks)
        return stream, 0, steps[1:]

    async def _refuse(self, connection: ServerConnection, dialect: Dialect, error: SurtitleError) -> None:
        """Answer a connection that has no stream."""
        self._metrics.errors.labels(error.code).inc()
        retry_after = getattr(error, "retry_after", None)
        event = events.Error(code=error.code, message=str(error), fatal=True, retry_after=retry_after)
        for text in dialect.render(Sequencer("").stamp(event, server_time=self._clock())):
            await self._send(connection, text)
        await connection.close(close_code(error.code), error.code)

    async def _write(
        self,
        connection: ServerConnection,
        stream: Published,
        after_seq: int,
        messages: Callable[[Entry], Iterable[str]],
        delivered: Callable[[Event], None] = lambda _: None,
    ) -> None:
        """Send a stream's events, and close the connection after the last."""
        code = NORMAL
        try:
            async for entry in stream.log.follow(after_seq):
                for text in messages(entry):
                    async with asyncio.timeout(self._send_seconds):
                        await connection.send(text)
                delivered(entry.event)
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
        quiet_since: Callable[[], float | None],
        *others: asyncio.Future[None],
    ) -> None:
        """Read and write until all is written, the connection is gone, or one of ``others`` is done.

        Reading alone may end earlier, or be held up by a full stream, and tells nothing. ``quiet_since`` is
        as in :func:`~workers.links.guard`.
        """
        writer, reader = asyncio.create_task(writing), asyncio.create_task(reading)
        closed = asyncio.create_task(connection.wait_closed())
        pings = {"ping_seconds": self._ping_seconds, "dead_seconds": self._dead_seconds}
        guarding = asyncio.create_task(guard(connection, quiet_since, **pings))
        tasks = (writer, reader, closed, guarding)
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
    known = (Subprotocol(SUBPROTOCOL), Subprotocol(REALTIME))
    return next((name for name in known if name in offered), None)


def _response(connection: ServerConnection, answer: Answer) -> Response:
    response = connection.respond(answer.status, answer.body)
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = answer.content_type
    for name, value in answer.headers.items():
        response.headers[name] = value
    return response
