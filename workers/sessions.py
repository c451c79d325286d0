"""One live stream: audio of a client in, numbered events out, two workers in between.

The stream outlives the connection that started it: the client may come back within a while, and
viewers may follow. All of them read the stream's :class:`~workers.eventlog.EventLog`.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.audio.codecs import CompressedDecoder
from pipeline.audio.pcm import to_s16le
from pipeline.config import SAMPLE_RATE, AudioFormat, StreamConfig
from pipeline.errors import SurtitleError
from pipeline.wire import commands, events
from pipeline.wire.events import Event, Sequencer
from workers import messages, watchdog
from workers.bookkeeper import Book
from workers.eventlog import EventLog
from workers.fleet import Fleet
from workers.ledger import Record
from workers.mailbox import Mailbox
from workers.markers import MARKERS, Control, Heard, Point, runs
from workers.messages import Done, Failed, Outcome, Push
from workers.metrics import Latencies, Metrics
from workers.mirror import entries_of, settings_of
from workers.protocols import StreamError
from workers.published import Published
from workers.pump import item_bytes
from workers.seat import Seat
from workers.told import Told
from workers.watchdog import Watchdog

logger = logging.getLogger(__name__)

PIECE_BYTES = 32 * 1024
"""Most audio that travels in one request; leaves room for other streams in the same call."""

INBOX_SECONDS = 10.0
INBOX_BYTES = 2 * 1024 * 1024
"""Audio that waits for the encoder, at most; beyond it the client is not read from."""

CODED_BYTES = 256 * 1024
"""Compressed audio that waits to be decoded, at most."""

OUTBOX_BYTES = 128 * 1024
SPEECH_EVENT_BYTES = 4 * 1024
"""Soft tokens that wait for the decoder, at most, and what an event without tokens counts."""

BEHIND_SECONDS = 2.0
CAUGHT_UP_SECONDS = 1.0
"""When a ``status`` event tells that text lags behind the audio received, and when that it does no more."""


class LiveStream(Published):
    """One stream, from ``start`` to ``done``, or from where another gateway was.

    Args:
        config: how it is heard and translated.
        encoders: one of which hosts its front half.
        decoders: one of which hosts its back half.
        describe: fields of ``ready`` that are the server's: ``model``, ``limits``.
        clock: Unix time in seconds.
        metrics: where the server counts.
        tenant: whose stream it is.
        sinks: names of those to which its captions are pushed.
        record: of the stream, when another gateway had it; settings are then taken from there.
        shared: whether other gateways may take it over: then :attr:`book` has to be set.
    """

    def __init__(
        self,
        config: StreamConfig,
        encoders: Fleet,
        decoders: Fleet,
        *,
        describe: dict[str, Any],
        clock: Callable[[], float],
        metrics: Metrics,
        tenant: str = "",
        sinks: tuple[str, ...] = (),
        record: Record | None = None,
        shared: bool = False,
    ) -> None:
        stream_id = secrets.token_urlsafe(12) if record is None else record.stream
        super().__init__(stream_id, config, tenant, EventLog(held=shared), sinks)
        self.token = secrets.token_urlsafe(24) if record is None else record.title.token
        self.book: Book | None = None
        # What its client knows, and an acknowledgement that waits until others could go on from there.
        self._told = Told()
        self._withheld: events.Ack | None = None
        # Whether another gateway has the stream, and whether its client could go there.
        self._gone = False
        self.resumable = True
        point = Point() if record is None else self._take_up(record)
        self._sequencer = Sequencer(self.id, self.log.last_seq)
        self._describe = describe
        self._clock = clock
        self._metrics = metrics
        self._latencies = Latencies()
        # Number of the connection that may bring audio; the next one takes it over.
        self._epoch = 0
        # The form in which the workers have the audio: as the client sends it, or decoded.
        self._pcm = AudioFormat() if config.audio.compressed else config.audio
        moved = metrics.moved.labels
        hosted = replace(config, audio=self._pcm)
        begun = record is not None
        self._encoder = Seat(
            encoders,
            self.id,
            hosted,
            moved=moved("encoder").inc,
            begun=begun,
            checkpoint=point.encoder,
        )
        self._decoder = Seat(
            decoders,
            self.id,
            hosted,
            shown=lambda: (self._told.utterances, self._told.shown, self._told.language),
            moved=moved("decoder").inc,
            begun=begun,
            checkpoint=point.decoder,
        )
        # Frames that the encoder knows already; compressed audio has to come again from its first byte, and
        # what was heard of it is skipped.
        self._known = point.frames
        self._skip = point.frames if config.audio.compressed else 0
        # Bytes and frames received so far, and the start of a frame that was cut.
        self._frames = point.frames - self._skip
        self._bytes = self._frames * self._pcm.bytes_per_frame
        self._rest = b""
        self._watchdog = Watchdog(watchdog.STALL_SECONDS)
        # What the last status told.
        self._behind = False
        self._action = "none"
        bytes_per_second = self._pcm.sample_rate * self._pcm.bytes_per_frame
        self._piece = _whole_frames(min(PIECE_BYTES, bytes_per_second), self._pcm)
        self._inbox: Mailbox[bytes | Control] = Mailbox(
            min(int(INBOX_SECONDS * bytes_per_second), INBOX_BYTES), _audio_bytes
        )
        # Where the client's messages go: there, or to be decoded before.
        self._entry = Mailbox(CODED_BYTES, _audio_bytes) if config.audio.compressed else self._inbox
        self._outbox: Mailbox[object] = Mailbox(OUTBOX_BYTES, _speech_bytes)

    @property
    def audio_received(self) -> float:
        """Seconds of audio that arrived, as far as it is decoded; a client that returns goes on from here."""
        return self._frames / self._pcm.sample_rate

    @property
    def bytes_received(self) -> int:
        """The same in bytes as the client has sent them."""
        return self._bytes

    @property
    def owned(self) -> bool:
        """Whether no other gateway has taken the stream over."""
        return not self._gone

    async def open(self) -> None:
        """Make room for the stream in both workers.

        Raises:
            SurtitleError: one of them refuses or is lost; then the stream is in neither.
        """
        try:
            for seat in (self._encoder, self._decoder):
                await seat.take()
        except BaseException:
            self.release()
            raise

    def attach(self) -> int:
        """Give the stream to a new connection; returns the number that its audio must come with.

        Publishes a ``ready`` event that says from where on audio is expected.
        """
        self._epoch += 1
        self._rest = b""
        self._tell(
            events.Ready(
                token=self.token,
                source=self.config.source,
                targets=self.targets,
                audio_received=self.audio_received,
                bytes_received=self.bytes_received,
                **self._describe,
            )
        )
        return self._epoch

    async def feed(self, data: bytes, epoch: int) -> None:
        """Take audio; waits while too much of it is waiting. Audio of an earlier connection is dropped."""
        if epoch != self._epoch:
            return
        data = self._rest + data
        whole = _whole_frames(len(data), self.config.audio)
        self._rest = data[whole:]
        for start in range(0, whole, self._piece):
            await self._entry.wait_for_room()
            if epoch != self._epoch or self.log.ended:
                return
            piece = data[start : min(start + self._piece, whole)]
            self._entry.put(piece)
            self._bytes += len(piece)
            if self._entry is self._inbox:
                self._received(len(piece) // self._pcm.bytes_per_frame)

    def _received(self, frames: int) -> None:
        self._frames += frames
        self._metrics.audio_seconds.inc(frames / self._pcm.sample_rate)
        self._latencies.received(self.audio_received, self._clock())
        self._watchdog.fed()

    def command(self, command: Control) -> None:
        """Carry out a command after all audio that came before it."""
        self._entry.put(command)

    def refuse(self, error: SurtitleError) -> None:
        """Tell the client of a message that was not accepted; the stream goes on."""
        self._tell(events.Error(code=error.code, message=str(error), fatal=False))

    def fail(self, error: SurtitleError) -> None:
        """End the stream with a fatal ``error`` event; cancel :meth:`run` after it."""
        self._tell(events.Error(code=error.code, message=str(error), fatal=True), last=True)

    def abandon(self) -> None:
        """Another gateway has the stream; cancel :meth:`run` behind it. The log is that one's from now on."""
        self._gone = True
        self._epoch += 1
        self.log.discard()
        for finals in (self.transcripts, self.translations):
            while finals and finals[-1].seq > self.log.last_seq:
                finals.pop()

    async def run(self) -> None:
        """Live until ``done`` or a fatal ``error`` has been published; leaves nothing in the workers."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._entry is not self._inbox:
                    group.create_task(self._decode())
                group.create_task(self._watchdog.guard())
                group.create_task(self._listen())
                group.create_task(self._translate())
        except* SurtitleError as failures:
            self.fail(cast(SurtitleError, failures.exceptions[0]))
        except* Exception:
            logger.exception("stream %s failed", self.id, extra={"stream": self.id})
            self.fail(StreamError("the stream failed with an internal error", code="internal"))
        finally:
            self.release()

    async def _decode(self) -> None:
        """What stands before the front half where audio is compressed; commands go past it, in order."""
        decoder = CompressedDecoder(self.config.audio.encoding)
        try:
            while True:
                for run in runs(await self._entry.take(PIECE_BYTES)):
                    match run:
                        case tuple():
                            await self._take_decoded(decoder.push(b"".join(run)))
                            continue
                        case commands.Flush():
                            await self._take_decoded(iter((decoder.flush(),)))
                        case commands.Stop():
                            await self._take_decoded(decoder.finish())
                    self._inbox.put(cast(Control, run))
                    if isinstance(run, commands.Stop):
                        return
        finally:
            decoder.close()

    async def _take_decoded(self, pieces: Iterator[NDArray[np.float32]]) -> None:
        """Put decoded audio into the inbox as there is room; decode it off the event loop, and not ahead."""
        while (samples := await asyncio.to_thread(_second, pieces)) is not None:
            await self._inbox.wait_for_room()
            self._received(len(samples))
            news = samples[self._skip :]
            self._skip -= len(samples) - len(news)
            if len(news):
                self._inbox.put(to_s16le(news))

    async def _listen(self) -> None:
        """Front half: audio through the encoder, commands past it, in order."""
        bytes_per_second = self._pcm.sample_rate * self._pcm.bytes_per_frame
        heard = self._known * self._pcm.bytes_per_frame
        while True:
            for run in runs(await self._inbox.take(self._piece)):
                if isinstance(run, tuple):
                    outcome = await self._encoder.request(Push(self.id, run))
                    heard += sum(len(piece) for piece in run)
                    await self._forward(outcome, heard)
                    self._outbox.put(Heard(heard / bytes_per_second))
                    continue
                if isinstance(run, commands.Flush | commands.Stop):
                    await self._forward(await self._encoder.request(messages.Flush(self.id)), heard)
                self._outbox.put(run)
                if isinstance(run, commands.Stop):
                    return

    async def _forward(self, outcome: Outcome, heard: int) -> None:
        """Hand on what came of so many bytes of audio."""
        for event in _items(outcome):
            await self._outbox.wait_for_room()
            self._outbox.put(event)
        if self.book is not None and isinstance(outcome, Done) and outcome.checkpoint is not None:
            self._outbox.put(Point(heard // self._pcm.bytes_per_frame, outcome.checkpoint))

    async def _translate(self) -> None:
        """Back half: speech events through the decoder, and what comes of them to the log."""
        while True:
            for run in runs(await self._outbox.take(PIECE_BYTES)):
                match run:
                    case Heard(audio_time=audio_time):
                        self.audio_time = max(self.audio_time, audio_time)
                        self._watchdog.moved(waiting=self.audio_received > audio_time)
                        self._tell_lag()
                    case tuple():
                        for event in _items(await self._decoder.request(Push(self.id, run))):
                            self._tell_news(cast(Event, event))
                    case Point():
                        self._can_go_on_from(run)
                    case commands.Mark(id=mark):
                        self._tell(events.Mark(id=mark))
                    case commands.Update():
                        await self._update(run)
                    case commands.Stop():
                        self._tell(self._done(), last=True)
                        self._watchdog.end()
                        return

    async def _update(self, command: commands.Update) -> None:
        update = messages.Update(
            self.id, command.targets, command.partials, command.context, command.glossary
        )
        outcome = await self._decoder.request(update)
        if isinstance(outcome, Failed) and not outcome.lost:
            self.refuse(StreamError(outcome.message, code=outcome.code))
            return
        _items(outcome)
        self.targets = command.targets or self.targets
        if self.book is not None:
            self.book.retitle()

    def _tell_news(self, event: Event) -> None:
        """Publish what the decoder has found, unless it had been found by another gateway."""
        if isinstance(event, events.Ack) and self.book is not None:
            self._withheld = event
        elif self._told.is_news(event):
            self._publish(event)

    def _can_go_on_from(self, point: Point) -> None:
        """Tell other gateways, unless the decoder is in an utterance; the client may then forget audio."""
        settled = self._decoder.settled
        if settled is None or self.book is None:
            return
        self.book.go_on_from(pickle.dumps(replace(point, decoder=settled[0]), pickle.HIGHEST_PROTOCOL))
        acknowledgement, self._withheld = self._withheld, None
        if acknowledgement is not None and self._told.is_news(acknowledgement):
            self._publish(acknowledgement)

    def _take_up(self, record: Record) -> Point:
        """Take over what another gateway has published; returns where to go on."""
        _, self.targets, _ = settings_of(record.title)
        entries = entries_of(record.lines)
        for entry in entries:
            self._told.note(entry.event)
            self.keep(entry.event)
            self.audio_time = max(self.audio_time, entry.event.audio_time)
        self.log.fill(entries, closed=record.closed)
        # Of another gateway: bytes from elsewhere could do anything.
        return Point() if record.point is None else cast(Point, pickle.loads(record.point))  # noqa: S301

    def _tell_lag(self) -> None:
        behind = self.audio_received - self.audio_time
        is_behind = behind >= CAUGHT_UP_SECONDS if self._behind else behind > BEHIND_SECONDS
        action = "degraded" if self._decoder.narrowed else "none"
        if (is_behind, action) != (self._behind, self._action):
            self._behind, self._action = is_behind, action
            self._tell(events.Status(behind=round(behind, 3), action=action))

    def _done(self) -> events.Done:
        return events.Done(
            audio_seconds=self.audio_received,
            utterances=self._told.utterances,
            latency=self._latencies.summary(),
        )

    def _tell(self, event: Event, *, last: bool = False) -> None:
        """Publish an event of the gateway's own; those of the decoder know their time of audio."""
        self._publish(replace(event, audio_time=self.audio_time), last=last)

    def _publish(self, event: Event, *, last: bool = False) -> None:
        if self.log.ended or self._gone:
            return
        now = self._clock()
        event = self._sequencer.stamp(event, server_time=now)
        (self.book or self.log).append(event, last=last)
        self._told.note(event)
        self.keep(event)
        match event:
            case events.Translation(final=True):
                self._metrics.observe_final(self._latencies.final(event.end, now))
            case events.Error(code=code):
                self._metrics.errors.labels(code).inc()

    def release(self) -> None:
        """Have both workers forget the stream."""
        for seat in (self._encoder, self._decoder):
            seat.release()


def _items(outcome: Outcome) -> tuple[object, ...]:
    if isinstance(outcome, Failed):
        raise StreamError(outcome.message, code=outcome.code)
    return outcome.items


def _second(pieces: Iterator[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """The next second of audio at 16 kHz, or what there is; None at the end."""
    taken: list[NDArray[np.float32]] = []
    while sum(map(len, taken)) < SAMPLE_RATE and (piece := next(pieces, None)) is not None:
        taken.append(piece)
    return np.concatenate(taken) if taken else None


def _whole_frames(size: int, audio: AudioFormat) -> int:
    return size - size % audio.bytes_per_frame


def _audio_bytes(item: object) -> int:
    return len(item) if isinstance(item, bytes) else 0


def _speech_bytes(item: object) -> int:
    return 0 if isinstance(item, MARKERS) else SPEECH_EVENT_BYTES + item_bytes(item)
