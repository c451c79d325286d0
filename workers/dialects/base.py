"""What a dialect is, and what several of them need."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pipeline.errors import ProtocolError
from pipeline.wire import events
from pipeline.wire.commands import Command
from pipeline.wire.events import Event, UtteranceText
from workers.eventlog import Entry

IDLE_SECONDS = 300.0
"""How long a client may take to start: those of other protocols connect before anybody speaks."""

UNSPACED = frozenset(("zh", "ja", "th", "lo", "km", "my"))
"""Languages that write no space between two sentences."""


@dataclass(frozen=True)
class Reply:
    """A text message that goes back to the client at once."""

    text: str


Step: TypeAlias = Command | bytes | Reply
"""What a client's message comes to: a command, audio, or an answer that needs no stream."""


class Dialect(ABC):
    """One connection in one protocol.

    The first command that it yields is ``Start``, and it yields no second one.
    """

    start_seconds = IDLE_SECONDS
    """How long the client may take until its stream starts."""

    resumable = False
    """Whether a client whose connection broke can come back to its stream."""

    def greet(self) -> Iterable[str]:
        """Messages that the server begins with."""
        return ()

    @abstractmethod
    def receive(self, message: str | bytes) -> Sequence[Step]:
        """Take the client's next message.

        Raises:
            ProtocolError: it is not accepted. Before ``Start``, and when the error is fatal, the connection
                ends with it; otherwise the message counts as never sent.
        """

    @abstractmethod
    def render(self, event: Event) -> Iterable[str]:
        """Messages that tell the client of an event of its stream, or that it has none."""

    def messages(self, entry: Entry) -> Iterable[str]:
        """Messages for an entry of the stream's log."""
        return self.render(entry.event)


class Transcript:
    """Utterances as one text to which is only added, as other protocols want it.

    Args:
        language: decides whether a space stands before an utterance whose own language is not told.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        # Number of the utterance that was added to last, and how much of it has been.
        self._utterance = -1
        self._length = 0
        self._begun = False

    def add(self, event: UtteranceText) -> str:
        """What the stable text of ``event`` adds."""
        if event.utterance != self._utterance:
            self._utterance, self._length = event.utterance, 0
        added = event.stable[self._length :]
        if not added:
            return ""
        if self._length == 0:
            own = event.language if isinstance(event, events.Transcript) else None
            gap = "" if primary(own or self._language) in UNSPACED else " "
            added = (gap if self._begun else "") + added.lstrip()
        self._length = len(event.stable)
        self._begun = True
        return added


def parsed(message: str, what: str = "message") -> dict[str, Any]:
    """The JSON object that a text message is.

    Args:
        message: of a client.
        what: the protocol's word for it.

    Raises:
        ProtocolError: it is none.
    """
    try:
        given = json.loads(message)
    except (ValueError, RecursionError):
        raise ProtocolError(f"the {what} is not JSON") from None
    if not isinstance(given, dict):
        raise ProtocolError(f"the {what} must be a JSON object")
    return given


def primary(language: str) -> str:
    """The language of a locale: ``es`` of ``es-ES``, ``es_ES`` and ``ES``."""
    return language.replace("_", "-").split("-")[0].lower()
