"""What the server says: protocol version 1, server to client.

An event is made without knowing the stream that it belongs to or the wall clock; a :class:`Sequencer` stamps
it with both, and :func:`encode` writes it down. :func:`decode` is for clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from pipeline.errors import ProtocolError


@dataclass(frozen=True, kw_only=True)
class Event:
    """What every event has.

    Args:
        stream_id: of the stream; empty where there is none.
        seq: 1, 2, 3 ... within the stream, without gaps.
        audio_time: seconds of audio consumed when the event was made.
        server_time: Unix time in seconds when it was stamped; 0 where no clock is read.
    """

    type: ClassVar[str] = ""

    stream_id: str = ""
    seq: int = 0
    audio_time: float = 0.0
    server_time: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ready(Event):
    """The stream has started, or its client has come back.

    Args:
        token: what it takes to come back.
        model: name of the model.
        source: language that is spoken, as ``start`` had it.
        targets: languages that it is translated into.
        limits: what the client must keep to.
        audio_received: seconds of audio that the server has; the next audio starts there.
        bytes_received: the same in bytes, as the client has sent them.
    """

    type: ClassVar[str] = "ready"

    token: str = ""
    model: str = ""
    source: str = ""
    targets: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    audio_received: float = 0.0
    bytes_received: int = 0


@dataclass(frozen=True, kw_only=True)
class SpeechStart(Event):
    """Utterance number ``utterance`` (from 0): the speech in it began at ``time``, in seconds."""

    type: ClassVar[str] = "speech_start"

    utterance: int
    time: float


@dataclass(frozen=True, kw_only=True)
class SpeechEnd(Event):
    """Utterance number ``utterance``: the speech in it ended at ``time``, in seconds."""

    type: ClassVar[str] = "speech_end"

    utterance: int
    time: float


@dataclass(frozen=True, kw_only=True)
class UtteranceText(Event):
    """A text of an utterance, as far as it is known.

    Args:
        utterance: its number.
        start: where it begins, in seconds.
        end: where it ends, or how far it has been heard.
        stable: text that will not change any more.
        tentative: how it may go on.
        final: whether this is all of it.
    """

    utterance: int
    start: float
    end: float
    stable: str
    tentative: str
    final: bool


@dataclass(frozen=True)
class SpokenWord:
    """A word of a final transcript, spoken from ``start`` to ``end`` (seconds, to within 0.16)."""

    word: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Transcript(UtteranceText):
    """What was said.

    Args:
        language: that it is in, once that is decided, where the stream names several; left out otherwise.
        words: of a final one, if the client has asked for them; left out otherwise.
    """

    type: ClassVar[str] = "transcript"

    language: str | None = None
    words: tuple[SpokenWord, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Translation(UtteranceText):
    """What it means in the language ``target``."""

    type: ClassVar[str] = "translation"

    target: str


@dataclass(frozen=True, kw_only=True)
class Ack(Event):
    """All audio before ``audio_time`` is silence or in final events of a smaller ``seq``."""

    type: ClassVar[str] = "ack"


@dataclass(frozen=True, kw_only=True)
class Status(Event):
    """Text is ``behind`` the audio received by so many seconds, and what is done about it.

    ``action`` is ``none``, ``degraded`` or ``skipped``.
    """

    type: ClassVar[str] = "status"

    behind: float
    action: str


@dataclass(frozen=True, kw_only=True)
class Mark(Event):
    """The echo of the client's ``mark`` of that ``id``."""

    type: ClassVar[str] = "mark"

    id: str


@dataclass(frozen=True, kw_only=True)
class Error(Event):
    """Something was not accepted or failed.

    Args:
        code: a ``snake_case`` word for programs.
        message: a sentence for people.
        fatal: whether the stream has ended.
        retry_after: seconds after which another try makes sense; None where it does not.
    """

    type: ClassVar[str] = "error"

    code: str
    message: str
    fatal: bool
    retry_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class Done(Event):
    """The last event.

    Args:
        audio_seconds: audio received.
        utterances: how many there were.
        latency: summary of the time from an utterance's last audio to its final translation.
    """

    type: ClassVar[str] = "done"

    audio_seconds: float = 0.0
    utterances: int = 0
    latency: Mapping[str, float] = field(default_factory=dict)


Some = TypeVar("Some", bound=Event)


class Sequencer:
    """Numbers the events of one stream.

    Args:
        stream_id: of the stream.
        last: number of the event that came before.
    """

    def __init__(self, stream_id: str, last: int = 0) -> None:
        self._stream_id = stream_id
        self._last = last

    def stamp(self, event: Some, server_time: float = 0.0) -> Some:
        """The event as the next one of its stream, made at ``server_time`` (Unix seconds)."""
        self._last += 1
        return replace(event, stream_id=self._stream_id, seq=self._last, server_time=server_time)


_HEAD = tuple(item.name for item in fields(Event))
"""Fields that every event begins with on the wire, behind its type."""


def encode(event: Event) -> str:
    """The event as a text message: a JSON object, the common fields first."""
    own = [item.name for item in fields(event) if item.name not in _HEAD]
    message: dict[str, Any] = {"type": event.type}
    message |= {name: getattr(event, name) for name in (*_HEAD, *own)}
    if message.get("language", "") is None:
        del message["language"]
    if "words" in message:
        spoken = message.pop("words")
        message |= {} if spoken is None else {"words": [asdict(word) for word in spoken]}
    return json.dumps(message, ensure_ascii=False)


_KINDS: dict[str, type[Event]] = {
    kind.type: kind
    for kind in (Ready, SpeechStart, SpeechEnd, Transcript, Translation, Ack, Status, Mark, Error, Done)
}


def decode(text: str) -> Event | None:
    """Read a text message of the server; what a client need not know is left out.

    Returns:
        The event; None when its type is not known.

    Raises:
        ProtocolError: the message is no event, or lacks one of its fields.
    """
    try:
        message = json.loads(text)
        kind = _KINDS.get(message["type"])
        if kind is None:
            return None
        known = {item.name for item in fields(kind)}
        values = {name: value for name, value in message.items() if name in known}
        if values.get("words") is not None:
            values["words"] = tuple(SpokenWord(**word) for word in values["words"])
        if kind is Ready:
            values["targets"] = tuple(values.get("targets", ()))
        return kind(**values)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ProtocolError("the message is no event of protocol version 1") from None
