"""Everything that crosses from the gateway to a worker and back.

A batch of requests travels in one call and comes back as one :class:`Reply` with an answer for each,
in the same order. ``stream`` is the stream's id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from pipeline.config import ContextConfig, StreamConfig
from pipeline.gemma.matformer import Widths
from pipeline.glossary import Entry

Item = TypeVar("Item")


@dataclass(frozen=True)
class Resumption:
    """Where a stream goes on whose worker was lost.

    Args:
        checkpoint: the last one that the other worker gave; ``None`` when there was none yet.
        utterance: number of the utterance that had no final text yet.
        shown: its stable text by target, the transcript's as ``""``.
        language: that was detected in it and has been told; empty for none.
    """

    checkpoint: object | None
    utterance: int = 0
    shown: Mapping[str, str] = field(default_factory=dict)
    language: str = ""


@dataclass(frozen=True)
class Open:
    """Make room for a stream; the first request of each."""

    stream: str
    config: StreamConfig
    resumption: Resumption | None = None


@dataclass(frozen=True)
class Push(Generic[Item]):
    """Give a stream its next items, in order: pieces of audio bytes, or speech events."""

    stream: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Flush:
    """End the stream's running utterance, if any, as if the speaker had stopped."""

    stream: str


@dataclass(frozen=True)
class Update:
    """Change settings from the stream's next utterance on."""

    stream: str
    targets: tuple[str, ...] | None = None
    partials: bool | None = None
    context: ContextConfig | None = None
    glossary: tuple[Entry, ...] | None = None


@dataclass(frozen=True)
class Release:
    """Forget the stream, if it is there; the last request of each."""

    stream: str


Request: TypeAlias = Open | Push[Item] | Flush | Update | Release


@dataclass(frozen=True)
class Done:
    """A request was carried out.

    Args:
        items: what came of it: speech events, or events for the client.
        checkpoint: what another worker needs to go on behind this request; ``None`` where it would need the
            requests since an earlier checkpoint.
    """

    items: tuple[object, ...] = ()
    checkpoint: object | None = None


@dataclass(frozen=True)
class Failed:
    """A request failed; when ``lost``, the worker has dropped the stream.

    ``message`` is free of audio, text and tracebacks: it goes to the client.
    """

    code: str
    message: str
    lost: bool = True


Outcome: TypeAlias = Done | Failed


@dataclass(frozen=True)
class Reply:
    """Outcomes of a batch, in its order.

    Args:
        outcomes: one for each request.
        credits: how many more streams the worker would take.
        seconds: how long the worker was busy with the batch.
        inside: from the batch's arrival in the worker to its reply; what a call takes beyond it is the way.
    """

    outcomes: Sequence[Outcome]
    credits: int
    seconds: float
    inside: float = 0.0


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says of itself once it is ready.

    Args:
        pid: of its process.
        credits: how many streams it would take.
        ladder: sub-models that it can use, from the widest to the narrowest; ``None`` is the whole model.
    """

    pid: int
    credits: int
    ladder: tuple[Widths | None, ...] = (None,)


@dataclass(frozen=True)
class WorkerStats:
    """Totals of a worker since its start."""

    streams: int = 0
    batches: int = 0
    requests: int = 0
    failures: int = 0
    busy_seconds: float = field(default=0.0)
