"""Protocol version 1 itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.wire.events import Event, encode
from pipeline.wire.protocol import Limits, ServerProtocol
from workers.dialects.base import Dialect, Step
from workers.eventlog import Entry

START_SECONDS = 10.0
"""How long a client may take to send ``start``."""


class Native(Dialect):
    """What ``docs/protocol.md`` describes.

    Args:
        limits: what the client must keep to.
    """

    start_seconds = START_SECONDS
    resumable = True

    def __init__(self, limits: Limits) -> None:
        self._protocol = ServerProtocol(limits)

    def receive(self, message: str | bytes) -> Sequence[Step]:
        """One message is one command or piece of audio."""
        return [self._protocol.receive(message)]

    def render(self, event: Event) -> Iterable[str]:
        """One event is one message."""
        return (encode(event),)

    def messages(self, entry: Entry) -> Iterable[str]:
        """The log has it written down."""
        return (entry.text,)
