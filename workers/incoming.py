"""What a client says, on its way from its connection to its stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from pipeline.errors import ProtocolError, SurtitleError
from pipeline.wire import commands
from pipeline.wire.protocol import Limits
from workers.dialects.base import Dialect, Reply, Step
from workers.protocols import StreamError
from workers.sessions import LiveStream


class Connection(Protocol):
    """Where messages come from."""

    async def recv(self) -> str | bytes:
        """The next message."""


class Incoming:
    """Carries a client's messages to its stream, as fast as that and the limits allow.

    Args:
        connection: of the client.
        dialect: that is spoken on it.
        stream: that the client has started or come back to.
        epoch: number of the connection, see :meth:`~workers.sessions.LiveStream.attach`.
        limits: what the client must keep to.
        pace: told of the size of every message; returns when the next may be read.
        reply: sends a message that answers one at once.
        end: ends the stream with an error.
    """

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        stream: LiveStream,
        epoch: int,
        *,
        limits: Limits,
        pace: Callable[[int], Awaitable[None]],
        reply: Callable[[str], Awaitable[None]],
        end: Callable[[SurtitleError], None],
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._stream = stream
        self._epoch = epoch
        self._limits = limits
        self._pace = pace
        self._reply = reply
        self._end = end
        # Since when all has been read that came, by the event loop's clock; None while something is at work.
        self.quiet_since: float | None = None

    async def run(self, steps: Sequence[Step]) -> None:
        """Carry messages until there are no more, or one ends the stream.

        Args:
            steps: what came with the client's start.
        """
        try:
            await self._take(steps)
            while True:
                message = await self._next()
                await self._pace(len(message))
                try:
                    steps = self._dialect.receive(message)
                except ProtocolError as error:
                    if error.fatal:
                        raise
                    self._stream.refuse(error)
                    continue
                await self._take(steps)
                self._check_length()
        except SurtitleError as error:
            self._end(error)

    async def _next(self) -> str | bytes:
        """The client's next message.

        Raises:
            StreamError: it has said nothing for too long.
        """
        seconds = self._limits.idle_seconds
        self.quiet_since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds or None):
                return await self._connection.recv()
        except TimeoutError:
            raise StreamError(
                f"nothing came for {seconds:g} s; say stop when there is no more audio", code="idle"
            ) from None
        finally:
            self.quiet_since = None

    async def _take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Reply):
                await self._reply(step.text)
            elif isinstance(step, bytes):
                await self._stream.feed(step, self._epoch)
            elif not isinstance(step, commands.Start):
                self._stream.command(step)

    def _check_length(self) -> None:
        longest = self._limits.stream_seconds
        if longest and self._stream.audio_received > longest:
            raise StreamError(
                f"a stream may have {longest:g} s of audio; start another one", code="stream_too_long"
            )
