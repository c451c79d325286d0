"""The server's side of one connection, without the connection.

A :class:`ServerProtocol` is told what arrives and answers with what it means; sending, closing and
time belong to whoever owns the socket. The rules it keeps: ``start`` comes first and once, audio
only while the stream runs, nothing after ``stop``, and no message is longer than the limit.
"""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass

from pipeline.errors import ProtocolError
from pipeline.wire.commands import MAX_TARGETS, Command, Start, Stop, parse_command

SUBPROTOCOL = "surtitle.v1"
"""Name of protocol version 1 in ``Sec-WebSocket-Protocol``."""

NORMAL = 1000
"""Close code after ``done``."""

SUPERSEDED = 4409
"""Close code of a connection whose stream was resumed by another one."""

TOO_SLOW = 4408
"""Close code of a connection that does not read its events as fast as they are made."""

EXPIRED = 4401
"""Close code of a connection whose key or token is not good any more."""

POLICY = 1008
"""Close code of a connection whose client broke the rules."""

INTERNAL = 1011
"""Close code of a connection that failed by a fault of ours."""

_CLOSE_CODES = {
    "frame_too_large": 1009,
    "internal": INTERNAL,
    "worker_lost": INTERNAL,
    "out_of_memory": INTERNAL,
    "stalled": INTERNAL,
    "shutting_down": 1012,
    "at_capacity": 1013,
    "too_many_streams": 1013,
}


@dataclass(frozen=True)
class Limits:
    """What a client must keep to; told to it in ``ready``.

    Args:
        frame_bytes: longest message, text or binary.
        targets: most languages that a stream is translated into.
        resume_seconds: how long a stream waits for a client whose connection broke.
        stream_seconds: most audio of one stream; 0 is without a limit.
        idle_seconds: how long a client may say nothing at all; 0 is without a limit.
    """

    frame_bytes: int = 65_536
    targets: int = MAX_TARGETS
    resume_seconds: float = 60.0
    stream_seconds: float = 0.0
    idle_seconds: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """The ``limits`` of a ``ready`` event."""
        return asdict(self)


class State(enum.Enum):
    """Where a connection is in its life."""

    CONNECTED, RUNNING, STOPPED = range(3)


class ServerProtocol:
    """Meaning and order of the messages of one client.

    Args:
        limits: what the client must keep to.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits
        self.state = State.CONNECTED

    def receive(self, message: str | bytes) -> Command | bytes:
        """Take the next message; returns what it asks for, or the audio that it is.

        Raises:
            ProtocolError: the message is malformed or out of order. When it is ``fatal``, the
                connection has to be closed with :func:`close_code`; otherwise the message is as if
                never sent.
        """
        size = len(message) if isinstance(message, bytes) else len(message.encode(errors="replace"))
        if size > self.limits.frame_bytes:
            raise ProtocolError(
                f"a message of {size} bytes is too large; accepted are at most {self.limits.frame_bytes}",
                code="frame_too_large",
                fatal=True,
            )
        try:
            return self._audio(message) if isinstance(message, bytes) else self._command(message)
        except ProtocolError as error:
            # Without a valid start there is no stream that could go on.
            error.fatal = error.fatal or self.state is State.CONNECTED
            raise

    def _audio(self, data: bytes) -> bytes:
        if self.state is State.CONNECTED:
            raise ProtocolError("the first message must be start, got audio", code="not_started")
        self._refuse_after_stop("audio")
        return data

    def _command(self, text: str) -> Command:
        command = parse_command(text)
        kind = type(command).__name__.lower()
        if self.state is State.CONNECTED:
            if not isinstance(command, Start):
                raise ProtocolError(f"the first message must be start, got {kind}", code="not_started")
            self.state = State.RUNNING
            return command
        self._refuse_after_stop(kind)
        if isinstance(command, Start):
            raise ProtocolError(
                "this connection has started its stream already; open another one for another stream",
                code="already_started",
            )
        if isinstance(command, Stop):
            self.state = State.STOPPED
        return command

    def _refuse_after_stop(self, kind: str) -> None:
        if self.state is State.STOPPED:
            raise ProtocolError(f"{kind} came after stop; accepted is nothing more", code="already_stopped")


def close_code(code: str) -> int:
    """The WebSocket close code after a fatal ``error`` event of that ``code`` (RFC 6455, section 7.4).

    1009 for a message that is too large, 1011 where the fault is ours, 1012 when the server ends,
    1013 when it is full, 1008 for everything that the client would have to do differently.
    """
    return _CLOSE_CODES.get(code, POLICY)
