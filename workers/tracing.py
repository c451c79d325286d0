"""Traces of utterances for OpenTelemetry: where the time went until the final text.

Whatever happens to an utterance, the gateway does itself or asks workers to do, who tell how long they had
it. So nothing travels with the calls: when an utterance is over, its spans are made here of what was noted,
in one trace. They hold moments, ids and numbers; never audio or text.

.. code-block:: text

    utterance                    from the call that heard it begin until its client has all final texts
        wait for encoder         a request waits for a call: for the tick, or for the one before of its stream
        encode                   a call to an encoder
        wait for decoder
        decode                   a call to a decoder
        ledger                   a final text waits until the ledger of all gateways has it
        deliver                  from then until it is on its way to the client
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from pipeline.speech import SpeechEvent
from pipeline.wire import events
from pipeline.wire.events import Event, UtteranceText
from workers.messages import Done
from workers.published import Published
from workers.pump import Trip

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

KEPT = 1024
"""Newest calls of a stream and a stage that are remembered: a minute and a half of 100 ms frames."""

UNDELIVERED = 16
"""Newest utterances that wait for a client to be sent their final texts."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """Something that took its time; moments are Unix time in seconds."""

    name: str
    began: float
    ended: float
    about: Mapping[str, bool | int | float | str] = field(default_factory=dict)


class Tracing:
    """Makes a trace of every utterance of the streams that it follows.

    Args:
        provider: takes the spans.
        clock: Unix time in seconds; the one that events are stamped with.
    """

    def __init__(self, provider: TracerProvider, clock: Callable[[], float]) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("surtitle")
        self._clock = clock
        self._followed: dict[str, _Followed] = {}

    def follow(self, stream: Published) -> None:
        """Have the utterances of a stream be traced from now on."""
        self.leave(stream)
        followed = _Followed(stream, self._clock, partial(self._export, stream))
        self._followed[stream.id] = stream.log.observer = followed

    def leave(self, stream: Published) -> None:
        """Finish with a stream: nothing of it will be delivered any more."""
        followed = self._followed.pop(stream.id, None)
        if followed is not None:
            followed.finish()

    async def close(self) -> None:
        """Finish with all streams, and have what was found be sent."""
        for followed in self._followed.values():
            followed.finish()
        self._followed.clear()
        await asyncio.to_thread(self._provider.shutdown)

    def trip(self, stage: str, trip: Trip) -> None:
        """Take note of a request that a worker of ``stage`` has answered."""
        followed = self._followed.get(trip.request.stream)
        if followed is not None:
            followed.trip(stage, trip, self._clock() - asyncio.get_running_loop().time())

    def _export(self, stream: Published, utterance: Utterance) -> None:
        from opentelemetry.context import Context  # noqa: PLC0415 - an extra, and slow to import
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        if not utterance.steps:  # of a stream that another gateway had until then
            return
        root = self._tracer.start_span(
            "utterance",
            Context(),
            attributes={
                "surtitle.stream": stream.id,
                "surtitle.tenant": stream.tenant,
                "surtitle.utterance": utterance.number,
                "surtitle.audio_seconds": utterance.audio_end - utterance.audio_start,
            },
            start_time=_nanoseconds(min(step.began for step in utterance.steps)),
        )
        within = set_span_in_context(root, Context())
        for step in utterance.steps:
            attributes = {f"surtitle.{name}": value for name, value in step.about.items()}
            span = self._tracer.start_span(
                step.name, within, attributes=attributes, start_time=_nanoseconds(step.began)
            )
            span.end(_nanoseconds(step.ended))
        root.end(_nanoseconds(max(step.ended for step in utterance.steps)))


@dataclass
class Utterance:
    """What is known of an utterance that has a final text.

    Args:
        number: of it.
        audio_start: where it begins, in seconds,
        audio_end: and where it ends.
        steps: what was done for it.
        missing: final texts that are still to come.
        waiting: by their ``seq``, since when final texts wait for the ledger or the client.
    """

    number: int
    audio_start: float
    audio_end: float
    steps: list[Step]
    missing: int
    waiting: dict[int, float] = field(default_factory=dict)


class _Followed:
    """One stream.

    Args:
        stream: it.
        clock: Unix time in seconds.
        export: takes what an utterance came to.
    """

    def __init__(
        self, stream: Published, clock: Callable[[], float], export: Callable[[Utterance], None]
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._export = export
        # Seconds of audio that the encoder has told of, and its calls with that number behind each.
        self._heard = 0.0
        self._encoding: deque[tuple[float, Step, Step]] = deque(maxlen=KEPT)
        # The decoder's calls since the last final text, and the one that brought that.
        self._decoding: deque[Step] = deque(maxlen=2 * KEPT)
        self._bringing: list[Step] = []
        # By their numbers.
        self._utterances: dict[int, Utterance] = {}

    def trip(self, stage: str, trip: Trip, offset: float) -> None:
        """Take note of a call; ``offset`` is what its moments are behind Unix time."""
        asked, called, answered = (moment + offset for moment in (trip.asked, trip.called, trip.answered))
        items = trip.outcome.items if isinstance(trip.outcome, Done) else ()
        about = {"inside_seconds": trip.inside}
        wait = Step(f"wait for {stage}", asked, called)
        if stage == "encoder":
            told = [item.time for item in items if isinstance(item, SpeechEvent)]
            self._heard = max((self._heard, *told))
            self._encoding.append((self._heard, wait, Step("encode", called, answered, about)))
        else:
            final = any(isinstance(item, UtteranceText) and item.final for item in items)
            self._decoding += (wait, Step("decode", called, answered, about | {"final": final}))

    def published(self, event: Event) -> None:
        """A final text is there, if it is one: everything but its delivery is known."""
        if not (isinstance(event, UtteranceText) and event.final):
            return
        utterance = self._utterances.get(event.utterance)
        if utterance is None:
            encoded, finals = self._encoded(event), 1 + len(self._stream.targets)
            # The decoder also has calls that are about silence.
            while encoded and self._decoding and self._decoding[0].ended < encoded[0].began:
                self._decoding.popleft()
            # One call may bring several utterances' texts.
            bringing = [] if self._decoding else self._bringing
            utterance = Utterance(event.utterance, event.start, event.end, encoded + bringing, finals)
            self._utterances[event.utterance] = utterance
        if self._decoding:
            utterance.steps += self._decoding
            self._bringing = utterance.steps[-2:]
            self._decoding.clear()
        utterance.missing -= 1
        utterance.waiting[event.seq] = event.server_time
        if len(self._utterances) > UNDELIVERED:
            self._export(self._utterances.pop(min(self._utterances)))

    def released(self, event: Event) -> None:
        """The ledger has an event."""
        self._note("ledger", event, last=False)

    def delivered(self, event: Event) -> None:
        """The client has an event, or will have."""
        self._note("deliver", event, last=True)

    def finish(self) -> None:
        """Export what there is, whatever has become of the final texts."""
        for utterance in self._utterances.values():
            self._export(utterance)
        self._utterances.clear()

    def _note(self, name: str, event: Event, *, last: bool) -> None:
        if not isinstance(event, UtteranceText) or event.utterance not in self._utterances:
            return
        utterance = self._utterances[event.utterance]
        if event.seq not in utterance.waiting:
            return
        now = self._clock()
        target = event.target if isinstance(event, events.Translation) else ""
        utterance.steps.append(Step(name, utterance.waiting[event.seq], now, {"target": target}))
        utterance.waiting[event.seq] = now
        if last:
            del utterance.waiting[event.seq]
        if utterance.missing <= 0 and not utterance.waiting:
            self._export(self._utterances.pop(event.utterance))

    def _encoded(self, event: UtteranceText) -> list[Step]:
        """The calls that heard an utterance, from the one that brought its beginning."""
        steps: list[Step] = []
        for heard, *two in self._encoding:
            if heard >= event.start:
                steps += two
            if heard >= event.end:
                break
        return steps


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


@asynccontextmanager
async def configured(
    environment: Mapping[str, str], clock: Callable[[], float]
) -> AsyncIterator[Tracing | None]:
    """Trace while the block runs, if the environment asks for it.

    Args:
        environment: variables of OpenTelemetry's specification: ``OTEL_TRACES_EXPORTER`` (``otlp``, the
            default where an endpoint is named; ``console``; or ``none``), ``OTEL_EXPORTER_OTLP_ENDPOINT``,
            ``OTEL_SDK_DISABLED``. The packages themselves read others, such as ``OTEL_TRACES_SAMPLER``.
        clock: as for :class:`Tracing`.
    """
    endpoint = any(environment.get(name) for name in _ENDPOINTS)
    exporter = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield None
        return
    try:
        provider = _provider(exporter, environment.get("OTEL_SERVICE_NAME") or "surtitle")
    except ImportError:
        logger.warning("traces are asked for, but need: pip install 'surtitle[otel]'")
    except ValueError as error:
        logger.warning("there are no traces: %s", error)
    else:
        tracing = Tracing(provider, clock)
        try:
            yield tracing
        finally:
            await tracing.close()
        return
    yield None


def _provider(exporter: str, service: str) -> TracerProvider:
    # An extra, and slow to import.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter  # noqa: PLC0415

    made: dict[str, Callable[[], SpanExporter]] = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}
    if exporter not in made:
        raise ValueError(f"OTEL_TRACES_EXPORTER must be one of {', '.join(made)}, none; got {exporter}")
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(made[exporter]()))
    return provider
