"""What the gateway relies on: the interface of a worker, wherever it runs, and of what it hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from pipeline.batching import CarryOut, Steps
from pipeline.config import ContextConfig, StreamConfig
from pipeline.errors import SurtitleError
from pipeline.gemma.matformer import Widths
from pipeline.glossary import Entry
from workers.messages import Reply, Request, WorkerInfo, WorkerStats

State = TypeVar("State")


class WorkerLostError(SurtitleError):
    """A worker died, hung, or cannot be reached; the state of its streams is gone."""

    code = "worker_lost"


class StreamError(SurtitleError):
    """A stream that cannot be opened, found or continued.

    Args:
        message: why, in a sentence fit for the client.
        code: the word for the ``error`` event.
        retry_after: seconds after which another try makes sense; ``None`` where it does not.
    """

    def __init__(self, message: str, *, code: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class Worker(Protocol):
    """Host of many streams, in this process or in another."""

    async def start(self) -> WorkerInfo:
        """Load what is needed and return once the worker can serve; again is harmless."""

    async def step(self, batch: Sequence[Request[Any]]) -> Reply:
        """Carry out a batch; a request that fails does not touch the others.

        Raises:
            WorkerLostError: there is no reply and there will be none.
        """

    async def restart(self) -> WorkerInfo:
        """Begin anew, without streams, after the worker was lost; whatever is left of it is ended."""

    async def narrow(self, widths: Widths | None) -> None:
        """Go on in a sub-model of the ladder with all streams, those that come included."""

    async def stats(self) -> WorkerStats:
        """Totals since the start."""

    async def check_health(self) -> None:
        """Return at once when the worker's event loop runs.

        Raises:
            WorkerLostError: it does not.
        """


class HostedStream(Protocol):
    """One half of a stream, which can go on elsewhere when its worker is lost."""

    def checkpoint(self) -> object | None:
        """What another one needs to go on from here, if that has changed and there is anything."""


class EncoderStream(HostedStream, Protocol):
    """The front half of one stream: :class:`pipeline.speech.SpeechEncoder`."""

    def steps(self, data: bytes) -> Steps[Any, Any, Sequence[object]]:
        """Take audio bytes; returns the speech events that became certain."""

    def flush_steps(self) -> Steps[Any, Any, Sequence[object]]:
        """End the running utterance; returns the speech events of it that were still missing."""

    def resume(self, checkpoint: Any) -> None:
        """Go on where another one was."""


class DecoderStream(HostedStream, Protocol):
    """The back half of one stream: :class:`pipeline.translation.SpeechTranslator`."""

    def steps(self, event: Any) -> Steps[Any, Any, Sequence[object]]:
        """Take a speech event; returns the events for the client that came of it."""

    def resize(self, ffn_widths: Widths | None) -> None:
        """Go on in another sub-model."""

    def update(
        self,
        *,
        targets: tuple[str, ...] | None,
        partials: bool | None,
        context: ContextConfig | None,
        glossary: tuple[Entry, ...] | None,
    ) -> None:
        """Change settings from the next utterance on.

        Raises:
            LanguageError: the model does not know one of the targets.
            UnsupportedError: the model was not made for a context.
        """

    def resume(self, checkpoint: Any, utterance: int, shown: Mapping[str, str], language: str) -> None:
        """Go on where another one was, which had ``shown`` so much of an utterance, in a ``language``."""


@dataclass(frozen=True)
class Loaded(Generic[State]):
    """A model that is ready.

    Args:
        open_stream: makes the state of a new stream.
        carry_out: does the work that steps of streams yield, for all of them in one batch.
        ladder: sub-models that streams can be resized to, from the widest to the narrowest.
    """

    open_stream: Callable[[StreamConfig], State]
    carry_out: CarryOut[Any, Any]
    ladder: tuple[Widths | None, ...] = (None,)


Load: TypeAlias = Callable[[], Loaded[State]]
"""Loads the model, in the worker's process."""
