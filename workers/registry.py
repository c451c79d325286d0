"""All live streams of a gateway: opened, found again, let go."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.config import StreamConfig
from pipeline.wire import commands
from pipeline.wire.protocol import Limits
from workers.metrics import Metrics
from workers.protocols import StreamError
from workers.pump import Pump, least_loaded
from workers.sessions import LiveStream

_SHUTTING_DOWN = "the server is shutting down; start again soon"


class Registry:
    """Live streams by their id, and the workers that take them.

    Args:
        encoders: pumps of the encoder workers.
        decoders: pumps of the decoder workers.
        model: the model's name, for ``ready``.
        limits: what clients must keep to.
        clock: Unix time in seconds.
        metrics: where the server counts.
    """

    def __init__(
        self,
        encoders: Sequence[Pump],
        decoders: Sequence[Pump],
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
        # When a stream without a connection is stopped, or one that has ended is forgotten.
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # Whether no stream is to be started any more.
        self._closed = False

    def get(self, stream_id: str) -> LiveStream | None:
        """The stream of that id, also for a while after it has ended."""
        return self._streams.get(stream_id)

    @property
    def ready(self) -> bool:
        """Whether there is a worker of each kind that is alive."""
        return all(any(pump.alive for pump in pumps) for pumps in (self._encoders, self._decoders))

    async def open(self, start: commands.Start) -> LiveStream:
        """Start a new stream on the workers with most room.

        Raises:
            SurtitleError: there is no room, or the model does not know a language.
        """
        encoder, decoder = least_loaded(self._encoders), least_loaded(self._decoders)
        if encoder is None or decoder is None:
            raise StreamError("all places for streams are taken; try again later", code="at_capacity")
        for pump in (encoder, decoder):
            pump.credits -= 1  # until its next reply, so that streams that come together spread
        config = StreamConfig(
            source=start.source, targets=start.targets, audio=start.audio, partials=start.partials
        )
        stream = LiveStream(
            config, encoder, decoder, describe=self._describe, clock=self._clock, metrics=self._metrics
        )
        await stream.open()
        if self._closed:  # since: nobody would end it
            stream.release()
            raise StreamError(_SHUTTING_DOWN, code="shutting_down")
        self._streams[stream.id] = stream
        task = asyncio.create_task(stream.run(), name=f"stream {stream.id}")
        self._tasks[stream.id] = task
        task.add_done_callback(lambda _: self._ended(stream))
        self._metrics.started.inc()
        self._metrics.streams.inc()
        return stream

    def resume(self, resume: commands.Resume) -> LiveStream:
        """Find the stream of a client that returns.

        Raises:
            StreamError: it is not here (any more), the token is not its own (both ``unknown_stream``),
                or events after ``after_seq`` are no longer kept (``too_slow``).
        """
        stream = self._streams.get(resume.stream_id)
        if stream is None or not secrets.compare_digest(stream.token.encode(), resume.token.encode()):
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

    def end(self, stream: LiveStream) -> None:
        """End a stream whose fatal ``error`` has been published."""
        task = self._tasks.get(stream.id)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """End all streams with a fatal ``error`` of code ``shutting_down`` and start no more."""
        self._closed = True
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
        self._metrics.streams.dec()
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
