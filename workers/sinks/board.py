"""All sinks of a server, and which stream has which."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from pipeline.errors import ProtocolError
from pipeline.gemma.prompt import candidates
from pipeline.wire import commands
from workers.metrics import Metrics
from workers.sessions import LiveStream
from workers.sinks.base import ClosedError, Sink
from workers.sinks.config import SinkSettings, make_sink
from workers.sinks.delivery import PATIENCE, Delivery, Patience

logger = logging.getLogger(__name__)


class Board:
    """Plugs streams into sinks.

    No address ever comes from a client: it can only name sinks that the operator has configured. A sink has
    one stream at a time, the newest that asks for it, so that an operator who starts again has it at once.

    Args:
        settings: the sinks.
        languages: that the model was made for, among which that of an utterance may be looked for.
        clock: Unix time in seconds, the same that stamps events.
        metrics: where to count.
        patience: how long sinks are waited for.
    """

    def __init__(
        self,
        settings: Sequence[SinkSettings],
        *,
        languages: Sequence[str],
        clock: Callable[[], float],
        metrics: Metrics,
        patience: Patience = PATIENCE,
    ) -> None:
        self._settings = {sink.name: sink for sink in settings}
        self._languages = languages
        self._clock = clock
        self._metrics = metrics
        self._patience = patience
        # Sinks that were in use, by name, with the options that they were made of.
        self._sinks: dict[str, tuple[dict[str, str], Sink]] = {}
        # The task that delivers to each sink.
        self._deliveries: dict[str, asyncio.Task[None]] = {}

    def check(self, start: commands.Start) -> None:
        """Look whether a new stream can have the sinks that it asks for.

        Raises:
            ProtocolError: one is not there, or is for a language that the stream does not have.
        """
        for name in start.sinks:
            sink = self._settings.get(name)
            if sink is None:
                raise ProtocolError(f"start.sinks: the server has no sink {name!a}")
            if sink.language not in self._had(start.source, start.targets):
                raise ProtocolError(
                    f"start.sinks: the sink {name!a} is for {sink.language}, which the stream does not have"
                )

    def attach(self, stream: LiveStream, names: Iterable[str]) -> None:
        """Deliver a stream's captions to the sinks of these names, and to those that take every stream."""
        languages = self._had(stream.config.source, stream.targets)
        for sink in self._settings.values():
            if sink.name in names or (sink.always and sink.language in languages):
                before = self._deliveries.get(sink.name)
                if before is not None:
                    before.cancel()
                task = asyncio.create_task(self._deliver(sink, stream, before), name=f"sink {sink.name}")
                self._deliveries[sink.name] = task

    def _had(self, source: str, targets: Iterable[str]) -> set[str]:
        """Languages whose captions a stream has: its targets, and those that may be spoken."""
        return {source, *candidates(source, self._languages), *targets}

    async def _deliver(
        self, settings: SinkSettings, stream: LiveStream, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await asyncio.wait((before,))  # a sink takes one caption at a time
        try:
            sink = self._sink(settings)
        except ClosedError as error:
            logger.error("sink %s cannot be used: %s", settings.name, error)
            return
        delivery = Delivery(
            settings.name,
            sink,
            stream,
            settings.cues,
            clock=self._clock,
            metrics=self._metrics,
            patience=self._patience,
        )
        await delivery.run()

    def _sink(self, settings: SinkSettings) -> Sink:
        """The sink as it was left, unless an option has changed since: every meeting has its own address."""
        options = settings.resolved()
        known = self._sinks.get(settings.name)
        if known is not None and known[0] == options:
            return known[1]
        sink = make_sink(settings.kind, options)
        self._sinks[settings.name] = (options, sink)
        return sink

    async def close(self) -> None:
        """Deliver nothing any more."""
        for task in self._deliveries.values():
            task.cancel()
        await asyncio.gather(*self._deliveries.values(), return_exceptions=True)
