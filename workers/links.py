"""How connections end that nobody closes: the other end is gone, or may not stay any longer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from pipeline.wire.protocol import EXPIRED

PING_SECONDS = 20.0
DEAD_SECONDS = 40.0
"""How often the other end is asked for a sign of life, and after how long without any a link is dead."""


class Pinged(Protocol):
    """A WebSocket."""

    transport: asyncio.Transport

    async def ping(self) -> Awaitable[float]:
        """Send a ping; what is returned is done when the pong has come."""

    async def close(self, code: int, reason: str) -> None:
        """Say good-bye."""


async def guard(
    connection: Pinged,
    quiet_since: Callable[[], float | None],
    *,
    ping_seconds: float = PING_SECONDS,
    dead_seconds: float = DEAD_SECONDS,
) -> None:
    """Cut a connection when it is dead; until cancelled.

    A missing pong alone proves nothing: who sends faster than he is read from has his pong stand in line
    behind his audio. It takes that everything has been read that came, and that nothing has come for so long.

    Args:
        connection: to the other end.
        quiet_since: since when everything that came has been read, by the event loop's clock; ``None`` while
            something waits.
        ping_seconds: from one ping to the next.
        dead_seconds: without a sign of life.
    """
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(ping_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(dead_seconds):
                await (await connection.ping())
                continue
        since = quiet_since()
        if since is not None and loop.time() - since >= dead_seconds:
            connection.transport.abort()
            return


def give_up_on_the_dead(connection: Pinged, seconds: float) -> None:
    """Have the kernel end a connection whose other end acknowledges nothing for so long."""
    sock = connection.transport.get_extra_info("socket")
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


@contextmanager
def until_expired(connection: Pinged, seconds: float | None) -> Iterator[None]:
    """Close a connection in so many seconds, for what was shown is not good any more then; None is never."""
    if seconds is None:
        yield
        return

    async def close() -> None:
        await asyncio.sleep(seconds)
        await connection.close(EXPIRED, "what was shown at the start is not good any more")

    closing = asyncio.create_task(close())
    try:
        yield
    finally:
        closing.cancel()
