"""Tickets: what a page shows instead of a key, good for one stream and for a short while.

They may stand in an address, where browsers' players need them, because they are soon worth nothing. They are
good on the gateway alone that sold them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from workers.access.identity import SPEAK, WATCH, AccessError, Identity, forbidden, unauthorized

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


class TicketOffice:
    """Sells tickets and takes them.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Who may what with which ticket, the oldest first.
        self._sold: dict[str, tuple[float, Identity]] = {}

    def sell(self, identity: Identity, stream: str | None) -> Ticket:
        """A ticket to watch a stream, or with ``None`` to start one, once.

        Raises:
            AccessError: who wants it may not do that himself, or too many are out.
        """
        if stream is None and not identity.may_speak():
            raise forbidden("a ticket to speak takes the scope speak")
        if stream is not None and not identity.may_watch(stream, identity.tenant):
            raise forbidden("a ticket to watch takes the scope watch")
        self._forget_old()
        if len(self._sold) >= MOST:
            raise AccessError("too many tickets are out", status=503, code="at_capacity", retry_after=SECONDS)
        scope = SPEAK if stream is None else f"{WATCH}:{stream}"
        ticket = Ticket(secrets.token_urlsafe(24), self._clock() + SECONDS)
        self._sold[ticket.text] = (
            ticket.expires,
            Identity(identity.tenant, identity.name, frozenset((scope,)), identity.expires),
        )
        return ticket

    def take(self, text: str) -> Identity:
        """Who he is that shows a ticket. One to speak is used up by that.

        Raises:
            AccessError: it is none, or not any more.
        """
        self._forget_old()
        _, identity = self._sold.get(text, (0.0, None))
        if identity is None:
            raise unauthorized("the ticket is used up, expired, or none of ours")
        if SPEAK in identity.scopes:
            del self._sold[text]
        return identity

    def _forget_old(self) -> None:
        now = self._clock()
        for text, (expires, _) in list(self._sold.items()):
            if expires > now:
                break
            del self._sold[text]
