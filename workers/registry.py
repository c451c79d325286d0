"""All live streams of a gateway: opened, found again, let go."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any

from pipeline.config import StreamConfig
from pipeline.errors import SurtitleError
from pipeline.wire import commands
from pipeline.wire.protocol import Limits
from workers.bookkeeper import Bookkeeper
from workers.fleet import Fleet
from workers.ledger import Record
from workers.metrics import Metrics
from workers.mirror import follow, mirror, settings_of, title_of
from workers.protocols import StreamError, WorkerLostError
from workers.published import Published
from workers.seat import RETRY_SECONDS
from workers.sessions import LiveStream
from workers.tracing import Tracing

logger = logging.getLogger(__name__)

_SHUTTING_DOWN = "the server is shutting down; start again soon"


class Registry:
    """Live streams by their id, and the workers that take them.

    Args:
        encoders: that streams may be on.
        decoders: that streams may be on.
        model: the model's name, for ``ready``.
        limits: what clients must keep to.
        clock: Unix time in seconds.
        metrics: where the server counts.
        keeper: writes streams into the ledger that gateways share; ``None`` where there is no other gateway.
        gone: told of a stream that another gateway has taken over.
        tracing: follows what becomes of utterances, if somebody wants to know.
    """

    def __init__(
        self,
        encoders: Fleet,
        decoders: Fleet,
        *,
        model: str,
        limits: Limits,
        clock: Callable[[], float],
        metrics: Metrics,
        keeper: Bookkeeper | None = None,
        gone: Callable[[LiveStream], None] = lambda _: None,
        tracing: Tracing | None = None,
    ) -> None:
        self._encoders = encoders
        self._decoders = decoders
        self._describe: dict[str, Any] = {"model": model, "limits": limits.as_dict()}
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._keeper = keeper
        self._gone = gone
        self._tracing = tracing
        # By their id; those that another gateway has included, if somebody watches them here.
        self._streams: dict[str, Published] = {}
        # The task that runs each stream of ours, until it has ended.
        self._tasks: dict[LiveStream, asyncio.Task[None]] = {}
        # Those that follow streams of other gateways.
        self._following: set[asyncio.Task[None]] = set()
        # What has to be called when a stream has ended.
        self._leaving: dict[LiveStream, Callable[[], None]] = {}
        # When a stream without a connection is stopped, or one that has ended is forgotten.
        self._timers: dict[Published, asyncio.TimerHandle] = {}
        # Whether no stream is to be started any more, and set while none runs.
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    def get(self, stream_id: str) -> Published | None:
        """The stream of that id, also for a while after it has ended."""
        return self._streams.get(stream_id)

    async def find(self, stream_id: str) -> None:
        """Have :meth:`get` know a stream that another gateway has."""
        if self._keeper is None or stream_id in self._streams:
            return
        try:
            record = await self._keeper.read(stream_id, 0)
        except WorkerLostError:
            return
        if record is not None and stream_id not in self._streams:
            self._streams[stream_id] = found = mirror(record)
            self._follow(found)

    @property
    def ready(self) -> bool:
        """Whether there is a worker of each kind that is alive, and streams may still be started."""
        return self._encoders.alive and self._decoders.alive and not self._closed

    async def open(
        self,
        start: commands.Start,
        tenant: str = "",
        leave: Callable[[], None] | None = None,
        *,
        resumable: bool = True,
    ) -> LiveStream:
        """Start a new stream on the workers with most room.

        Args:
            start: how.
            tenant: whose it is.
            leave: called when it has ended.
            resumable: whether its client can come back when its connection breaks.

        Raises:
            SurtitleError: there is no room, or the model does not know a language.
        """
        self._refuse_when_closed()
        config = StreamConfig(
            source=start.source,
            targets=start.targets,
            audio=start.audio,
            partials=start.partials,
            policy=start.policy,
            word_times=start.word_times,
            context=start.context,
            glossary=start.glossary,
        )
        stream = self._made(config, tenant=tenant, sinks=start.sinks)
        stream.resumable = resumable
        await self._launch(stream, leave)
        logger.info("started", extra={"stream": stream.id, "tenant": tenant})
        self._metrics.started.inc()
        return stream

    def _made(self, config: StreamConfig, **options: Any) -> LiveStream:
        return LiveStream(
            config,
            self._encoders,
            self._decoders,
            describe=self._describe,
            clock=self._clock,
            metrics=self._metrics,
            shared=self._keeper is not None,
            **options,
        )

    async def _launch(
        self, stream: LiveStream, leave: Callable[[], None] | None, record: Record | None = None
    ) -> None:
        """Have a stream run here; it is another gateway's until now if there is a ``record``."""
        await stream.open()
        if self._closed:  # since: nobody would end it
            stream.release()
            self._refuse_when_closed()
        if self._keeper is not None:
            seconds = self._keeper.keeps(self._limits.resume_seconds)
            stream.book = self._keeper.open(
                stream,
                lambda: title_of(stream, stream.token, seconds),
                lambda: self._lose(stream),
                epoch=1 if record is None else record.epoch,
                known=record is not None,
            )
            if record is not None and record.point is not None:
                stream.book.go_on_from(record.point)
        self._streams[stream.id] = stream
        if self._tracing is not None:
            self._tracing.follow(stream)
        task = asyncio.create_task(stream.run(), name=f"stream {stream.id}")
        self._tasks[stream] = task
        self._idle.clear()
        if leave is not None:
            self._leaving[stream] = leave
        task.add_done_callback(lambda _: self._ended(stream))
        self._metrics.streams.inc()

    async def resume(
        self,
        resume: commands.Resume,
        tenant: str = "",
        take_place: Callable[[], Callable[[], None]] | None = None,
    ) -> LiveStream:
        """Find the stream of a client that returns, here or on another gateway.

        Args:
            resume: what the client says.
            tenant: who it is.
            take_place: for a stream that was not here: takes one of the client's places, and returns what has
                to be called when the stream has ended.

        Raises:
            SurtitleError: it is nowhere (any more), the token is not its own (both ``unknown_stream``),
                events after ``after_seq`` are no longer kept (``too_slow``), or there is no room for it here.
        """
        stream = self._streams.get(resume.stream_id)
        if (
            isinstance(stream, LiveStream)
            and stream.tenant == tenant
            and secrets.compare_digest(stream.token.encode(), resume.token.encode())
            and await self._is_ours(stream)
        ):
            self._check_place(stream, resume)
        else:
            stream = await self._take_over(resume, tenant, take_place)
        logger.info("resumed", extra={"stream": stream.id, "tenant": stream.tenant})
        self._metrics.resumes.inc()
        return stream

    async def _is_ours(self, stream: LiveStream) -> bool:
        """Whether no other gateway has taken over a stream that was ours; a write tells."""
        if self._keeper is not None and stream.book is not None and stream in self._tasks:
            await self._keeper.settle(stream.book)
        return stream.owned

    async def _take_over(
        self,
        resume: commands.Resume,
        tenant: str,
        take_place: Callable[[], Callable[[], None]] | None,
    ) -> LiveStream:
        self._refuse_when_closed()
        record = None
        if self._keeper is not None:
            try:
                record = await self._keeper.claim(resume.stream_id, resume.token, tenant)
            except WorkerLostError:
                logger.error("the ledger cannot be asked for a stream", extra={"stream": resume.stream_id})
        if record is None:
            raise StreamError(
                "start.resume names no stream that is here with this token; streams are kept for "
                f"{self._limits.resume_seconds:g} s after a connection breaks; start a new one",
                code="unknown_stream",
            )
        config, _, sinks = settings_of(record.title)
        stream = self._made(config, tenant=tenant, sinks=sinks, record=record)
        self._check_place(stream, resume)
        if stream.log.closed:  # nothing is left to be done
            self._streams[stream.id] = stream
            self._set_timer(stream, lambda: self._forget(stream))
            return stream
        leave = None if take_place is None else take_place()
        try:
            await self._launch(stream, leave, record)
        except BaseException:
            if leave is not None:
                leave()
            raise
        logger.info("taken over", extra={"stream": stream.id, "tenant": tenant})
        self._metrics.taken_over.inc()
        return stream

    def _check_place(self, stream: LiveStream, resume: commands.Resume) -> None:
        """See that the events after the client's last are still kept."""
        first, last = stream.log.first_seq - 1, stream.log.last_seq
        if not first <= resume.after_seq <= last:
            raise StreamError(
                f"start.resume.after_seq must be from {first} to {last}, got {resume.after_seq}",
                code="too_slow" if resume.after_seq < first else "bad_message",
            )

    def attached(self, stream: LiveStream) -> None:
        """A connection has the stream: do not stop it."""
        if stream in self._tasks:
            self._cancel_timer(stream)

    def detached(self, stream: LiveStream, *, left: bool) -> None:
        """The stream has no connection: stop it, unless one comes in time or the client ``left`` for good."""
        if left:
            stream.command(commands.Stop())
        elif stream in self._tasks:
            self._set_timer(stream, lambda: stream.command(commands.Stop()))

    def end(self, stream: LiveStream, error: SurtitleError) -> None:
        """End a stream with a fatal ``error`` event."""
        stream.fail(error)
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()

    def drain(self) -> None:
        """Start no more streams; those that run go on, and may be resumed."""
        self._closed = True

    async def idle(self) -> None:
        """Wait until no stream runs."""
        await self._idle.wait()

    async def close(self) -> None:
        """End all streams and start no more.

        Those that can go on on other gateways are written to their last event and left to these; others end
        with a fatal ``error`` of code ``shutting_down``.
        """
        self.drain()
        tasks = list(self._tasks.values())
        shared = self._keeper is not None and self._keeper.answers
        books = [stream.book for stream in self._tasks if shared and stream.resumable and stream.book]
        for stream in self._tasks:
            if stream.book not in books:
                stream.fail(StreamError(_SHUTTING_DOWN, code="shutting_down"))
        for task in (*tasks, *self._following):
            task.cancel()
        await asyncio.gather(*tasks, *self._following, return_exceptions=True)
        if self._keeper is not None:
            await asyncio.gather(*map(self._keeper.settle, books))
        for timer in self._timers.values():
            timer.cancel()

    def _lose(self, stream: LiveStream) -> None:
        """Let go of a stream that another gateway has; those who watch it here follow it there."""
        logger.info("taken over by another gateway", extra={"stream": stream.id, "tenant": stream.tenant})
        stream.abandon()
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()
        self._gone(stream)
        self._follow(stream)

    def _follow(self, stream: Published) -> None:
        assert self._keeper is not None
        self._cancel_timer(stream)
        task = asyncio.create_task(follow(stream, self._keeper), name=f"mirror {stream.id}")
        self._following.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._following.discard(task)
            if not task.cancelled():
                self._set_timer(stream, lambda: self._forget(stream))

        task.add_done_callback(ended)

    def _ended(self, stream: LiveStream) -> None:
        del self._tasks[stream]
        if not self._tasks:
            self._idle.set()
        if leave := self._leaving.pop(stream, None):
            leave()
        if self._keeper is not None and stream.book is not None:
            self._keeper.close(stream.book)
        self._metrics.streams.dec()
        totals = {"audio_seconds": stream.audio_received, "utterances": len(stream.transcripts)}
        logger.info("ended", extra={"stream": stream.id, "tenant": stream.tenant, **totals})
        if stream.owned:
            self._set_timer(stream, lambda: self._forget(stream))

    def _forget(self, stream: Published) -> None:
        if self._streams.get(stream.id) is stream:
            del self._streams[stream.id]
            if self._tracing is not None:
                self._tracing.leave(stream)
        del self._timers[stream]

    def _set_timer(self, stream: Published, then: Callable[[], None]) -> None:
        self._cancel_timer(stream)
        loop = asyncio.get_running_loop()
        self._timers[stream] = loop.call_later(self._limits.resume_seconds, then)

    def _cancel_timer(self, stream: Published) -> None:
        timer = self._timers.pop(stream, None)
        if timer is not None:
            timer.cancel()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise StreamError(_SHUTTING_DOWN, code="shutting_down", retry_after=RETRY_SECONDS)
