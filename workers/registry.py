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
from workers.fleet import Fleet
from workers.metrics import Metrics
from workers.protocols import StreamError
from workers.seat import RETRY_SECONDS
from workers.sessions import LiveStream

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
    ) -> None:
        self._encoders = encoders
        self._decoders = decoders
        self._describe: dict[str, Any] = {"model": model, "limits": limits.as_dict()}
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._streams: dict[str, LiveStream] = {}
        # The task that runs each stream, until it has ended.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # What has to be called when a stream has ended.
        self._leaving: dict[str, Callable[[], None]] = {}
        # When a stream without a connection is stopped, or one that has ended is forgotten.
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # Whether no stream is to be started any more, and set while none runs.
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    def get(self, stream_id: str) -> LiveStream | None:
        """The stream of that id, also for a while after it has ended."""
        return self._streams.get(stream_id)

    @property
    def ready(self) -> bool:
        """Whether there is a worker of each kind that is alive, and streams may still be started."""
        return self._encoders.alive and self._decoders.alive and not self._closed

    async def open(
        self, start: commands.Start, tenant: str = "", leave: Callable[[], None] | None = None
    ) -> LiveStream:
        """Start a new stream on the workers with most room.

        Args:
            start: how.
            tenant: whose it is.
            leave: called when it has ended.

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
        )
        stream = LiveStream(
            config,
            self._encoders,
            self._decoders,
            describe=self._describe,
            clock=self._clock,
            metrics=self._metrics,
            tenant=tenant,
        )
        await stream.open()
        if self._closed:  # since: nobody would end it
            stream.release()
            self._refuse_when_closed()
        self._streams[stream.id] = stream
        task = asyncio.create_task(stream.run(), name=f"stream {stream.id}")
        self._tasks[stream.id] = task
        self._idle.clear()
        if leave is not None:
            self._leaving[stream.id] = leave
        task.add_done_callback(lambda _: self._ended(stream))
        logger.info("started", extra={"stream": stream.id, "tenant": tenant})
        self._metrics.started.inc()
        self._metrics.streams.inc()
        return stream

    def resume(self, resume: commands.Resume, tenant: str = "") -> LiveStream:
        """Find the stream of a client that returns.

        Raises:
            StreamError: it is not here (any more), the token is not its own (both ``unknown_stream``),
                or events after ``after_seq`` are no longer kept (``too_slow``).
        """
        stream = self._streams.get(resume.stream_id)
        if (
            stream is None
            or stream.tenant != tenant
            or not secrets.compare_digest(stream.token.encode(), resume.token.encode())
        ):
            raise StreamError(
                "start.resume names no stream that is here with this token; streams are kept for "
                f"{self._limits.resume_seconds:g} s after a connection breaks; start a new one",
                code="unknown_stream",
            )
        first, last = stream.log.first_seq - 1, stream.log.last_seq
        if not first <= resume.after_seq <= last:
            raise StreamError(
                f"start.resume.after_seq must be from {first} to {last}, got {resume.after_seq}",
                code="too_slow" if resume.after_seq < first else "bad_message",
            )
        logger.info("resumed", extra={"stream": stream.id, "tenant": stream.tenant})
        self._metrics.resumes.inc()
        return stream

    def attached(self, stream: LiveStream) -> None:
        """A connection has the stream: do not stop it."""
        if stream.id in self._tasks:
            self._cancel_timer(stream)

    def detached(self, stream: LiveStream, *, left: bool) -> None:
        """The stream has no connection: stop it, unless one comes in time or the client ``left`` for good."""
        if left:
            stream.command(commands.Stop())
        elif stream.id in self._tasks:
            self._set_timer(stream, lambda: stream.command(commands.Stop()))

    def end(self, stream: LiveStream, error: SurtitleError) -> None:
        """End a stream with a fatal ``error`` event."""
        stream.fail(error)
        task = self._tasks.get(stream.id)
        if task is not None:
            task.cancel()

    def drain(self) -> None:
        """Start no more streams; those that run go on, and may be resumed."""
        self._closed = True

    async def idle(self) -> None:
        """Wait until no stream runs."""
        await self._idle.wait()

    async def close(self) -> None:
        """End all streams with a fatal ``error`` of code ``shutting_down`` and start no more."""
        self.drain()
        tasks = list(self._tasks.values())
        for stream in self._streams.values():
            stream.fail(StreamError(_SHUTTING_DOWN, code="shutting_down"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for timer in self._timers.values():
            timer.cancel()

    def _ended(self, stream: LiveStream) -> None:
        del self._tasks[stream.id]
        if not self._tasks:
            self._idle.set()
        if leave := self._leaving.pop(stream.id, None):
            leave()
        self._metrics.streams.dec()
        totals = {"audio_seconds": stream.audio_received, "utterances": len(stream.transcripts)}
        logger.info("ended", extra={"stream": stream.id, "tenant": stream.tenant, **totals})
        self._set_timer(stream, lambda: self._forget(stream))

    def _forget(self, stream: LiveStream) -> None:
        del self._streams[stream.id]
        del self._timers[stream.id]

    def _set_timer(self, stream: LiveStream, then: Callable[[], None]) -> None:
        self._cancel_timer(stream)
        loop = asyncio.get_running_loop()
        self._timers[stream.id] = loop.call_later(self._limits.resume_seconds, then)

    def _cancel_timer(self, stream: LiveStream) -> None:
        timer = self._timers.pop(stream.id, None)
        if timer is not None:
            timer.cancel()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise StreamError(_SHUTTING_DOWN, code="shutting_down", retry_after=RETRY_SECONDS)
