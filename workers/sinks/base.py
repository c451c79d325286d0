"""What a sink is, and how it says that it cannot take a caption."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from pipeline.errors import SurtitleError


@dataclass(frozen=True)
class Caption:
    """What is to stand on a screen.

    Args:
        number: 1, 2, 3 ... within a stream's captions for a sink; a repeated attempt has the same one.
        stream: id of the stream.
        language: of the text.
        text: lines, with a newline between two; empty to clear the screen.
        start: Unix time in seconds from which on it stands.
        end: until when, unless another one comes before.
    """

    number: int
    stream: str
    language: str
    text: str
    start: float
    end: float


class SinkError(SurtitleError):
    """A sink did not take a caption. Raised as one of the three below."""

    code = "sink_failed"


class BusyError(SinkError):
    """It may take the same caption a little later.

    Args:
        message: why.
        retry_after: seconds that the sink asks for.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(SinkError):
    """It does not take this caption, and may take the next one: a meeting that has not begun."""


class ClosedError(SinkError):
    """It will take none any more: the address or the password is wrong, or has expired."""


class Sink(ABC):
    """One destination; it takes one caption at a time.

    The server makes one from its settings when it starts and keeps it for all streams, so that what the
    destination counts goes on from stream to stream.
    """

    clears: ClassVar[bool] = False
    """Whether a caption stands until the next one comes, and the screen has to be cleared behind it."""

    width: ClassVar[int] = 42
    """Columns in a line, unless the settings say otherwise."""

    @abstractmethod
    async def send(self, caption: Caption) -> None:
        """Deliver a caption.

        Raises:
            SinkError: one of its three kinds.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections, not of counts; a later :meth:`send` opens them again."""
