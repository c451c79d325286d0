"""Tickets: what a page shows instead of a key, good for one stream and for a short while.

They may stand in an address, where browsers' players need them, because they are soon worth nothing. What
they are good for is on a shelf: of this gateway alone, or one that gateways share, and then all take them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from workers.access.identity import SPEAK, WATCH, AccessError, Identity, forbidden, unauthorized
from workers.protocols import WorkerLostError

SECONDS = 60.0
MOST = 10_000
"""How long a ticket is good, and how many are at a time."""


@dataclass(frozen=True)
class Ticket:
    """What was sold.

    Args:
        text: what has to be shown.
        expires: Unix time in seconds.
    """

    text: str
    expires: float


class Shelf(Protocol):
    """Where it says what tickets are good for; where it is elsewhere, calls may raise ``WorkerLostError``."""

    async def put_ticket(self, key: str, identity: Identity, seconds: float, *, once: bool) -> bool:
        """Keep it for so long, or if ``once``, until it is taken; False where there is no room."""

    async def take_ticket(self, key: str) -> Identity | None:
        """What was put there, if it still is."""


class Drawer:
    """A :class:`Shelf` in this process.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # What is in it, until when, and whether for one time; the oldest first.
        self._kept: dict[str, tuple[float, Identity, bool]] = {}

    async def put_ticket(self, key: str, identity: Identity, seconds: float, *, once: bool) -> bool:
        """As for every shelf."""
        self._forget_old()
        if len(self._kept) >= MOST:
            return False
        self._kept[key] = (self._clock() + seconds, identity, once)
        return True

    async def take_ticket(self, key: str) -> Identity | None:
        """As for every shelf."""
        self._forget_old()
        _, identity, once = self._kept.get(key, (0.0, None, False))
        if once:
            del self._kept[key]
        return identity

    def _forget_old(self) -> None:
        now = self._clock()
        for key, (expires, _, _) in list(self._kept.items()):
            if expires > now:
                break
            del self._kept[key]


class TicketOffice:
    """Sells tickets and takes them.

    Args:
        clock: Unix time in seconds.
        shelf: where it says what they are good for; one of its own, by default.
    """

    def __init__(self, clock: Callable[[], float], shelf: Shelf | None = None) -> None:
        self._clock = clock
        self.shelf: Shelf = shelf or Drawer()

    async def sell(self, identity: Identity, stream: str | None) -> Ticket:
        """A ticket to watch a stream, or with ``None`` to start one, once.

        Raises:
            AccessError: who wants it may not do that himself, too many are out, or the shelf does not answer.
        """
        if stream is None and not identity.may_speak():
            raise forbidden("a ticket to speak takes the scope speak")
        if stream is not None and not identity.may_watch(stream, identity.tenant):
            raise forbidden("a ticket to watch takes the scope watch")
        scope = SPEAK if stream is None else f"{WATCH}:{stream}"
        good_for = Identity(identity.tenant, identity.name, frozenset((scope,)), identity.expires)
        ticket = Ticket(secrets.token_urlsafe(24), self._clock() + SECONDS)
        try:
            sold = await self.shelf.put_ticket(_key(ticket.text), good_for, SECONDS, once=stream is None)
        except WorkerLostError:
            raise _away() from None
        if not sold:
            raise AccessError("too many tickets are out", status=503, code="at_capacity", retry_after=SECONDS)
        return ticket

    async def take(self, text: str) -> Identity:
        """Who he is that shows a ticket. One to speak is used up by that.

        Raises:
            AccessError: it is none, or not any more, or the shelf does not answer.
        """
        try:
            identity = await self.shelf.take_ticket(_key(text))
        except WorkerLostError:
            raise _away() from None
        if identity is None:
            raise unauthorized("the ticket is used up, expired, or none of ours")
        return identity


def _key(text: str) -> str:
    """What is looked up, so that how long it takes tells nothing of tickets, and shelves hold none."""
    return hashlib.sha256(text.encode()).hexdigest()


def _away() -> AccessError:
    return AccessError("tickets cannot be looked up now", status=503, code="unavailable", retry_after=1.0)
