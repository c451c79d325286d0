"""The door: who is let in, by what he shows and from where he comes.

What is shown is looked for in three places: the header ``Authorization: Bearer``, which programs can set; a
subprotocol ``surtitle.bearer.…``, which is all that a page can set on a WebSocket; and a ticket in the
address, for what can set neither. No error and no log line repeats any of it.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from workers.access.identity import ANYONE, NOBODY, VIEWER, AccessError, Identity, forbidden, unauthorized
from workers.access.keys import PREFIX, KeyRing
from workers.access.rates import Buckets, Places
from workers.access.tickets import TicketOffice
from workers.access.tokens import TokenVerifier
from workers.protocols import StreamError

BEARER_SUBPROTOCOL = "surtitle.bearer."
OPENAI_SUBPROTOCOL = "openai-insecure-api-key."
"""What goes before a key or token among the subprotocols; the latter from OpenAI's clients in browsers."""

LONGEST = 4_096
"""Characters of the longest key or token that is looked at."""

LEAST_BYTES = 256
"""What a message counts at least: a thousand small ones cost more than one of the same size."""

RETRY_SECONDS = 5.0

_HEALTH = frozenset(("/healthz", "/readyz"))
_LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))


class Headers(Protocol):
    """Headers of a request; a name may be there several times."""

    def get_all(self, name: str, /) -> Sequence[str]:
        """Values of a header."""


@dataclass(frozen=True)
class AccessLimits:
    """What everybody may have. 0 is without a limit.

    Args:
        connects_per_second: requests and connections from one address, twice as many at once.
        streams_per_key: streams at a time, of one key, or of a token's subject.
        streams_per_address: streams at a time that come from one address.
        bytes_per_second: of one key's audio, or where nobody shows one, of one address'; two seconds' worth
            may come at once. Who sends faster is read from more slowly.
    """

    connects_per_second: float = 0.0
    streams_per_key: int = 0
    streams_per_address: int = 0
    bytes_per_second: float = 0.0


@dataclass(frozen=True)
class Visitor:
    """Somebody who was let in.

    Args:
        identity: who he is.
        address: where he comes from.
    """

    identity: Identity
    address: str

    @property
    def owner(self) -> str:
        """By what his bytes are counted."""
        return self.identity.name or self.address


class Guard:
    """Lets people in.

    Args:
        keys: API keys that are good.
        tokens: verifies JSON Web Tokens.
        anonymous: whether people are let in who show nothing; so they are without keys and tokens.
        watch_by_link: whether whoever knows a stream's id may watch it, and has to show nothing for that.
        origins: of pages, besides our own, that may connect; each as in ``https://example.org``.
        local_names: whether we may be called by names of this machine alone. Otherwise a page of anywhere
            whose name was made to point here could connect as if it were ours (DNS rebinding).
        proxies: networks whose ``X-Forwarded-For`` is believed.
        limits: what everybody may have.
        clock: Unix time in seconds.
        steady: seconds that never go back.
    """

    def __init__(
        self,
        *,
        keys: KeyRing | None = None,
        tokens: TokenVerifier | None = None,
        anonymous: bool = False,
        watch_by_link: bool = False,
        origins: Sequence[str] = (),
        local_names: bool = False,
        proxies: Sequence[str] = (),
        limits: AccessLimits | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.tickets = TicketOffice(clock)
        self.limits = limits or AccessLimits()
        self._keys = keys
        self._tokens = tokens
        self._anonymous = anonymous or (keys is None and tokens is None)
        self._watch_by_link = watch_by_link
        self._origins = frozenset(origins)
        self._local_names = local_names
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._connects = _buckets(self.limits.connects_per_second, steady)
        self._bytes = _buckets(self.limits.bytes_per_second, steady)
        self._by_key = Places(self.limits.streams_per_key) if self.limits.streams_per_key else None
        self._by_address = (
            Places(self.limits.streams_per_address) if self.limits.streams_per_address else None
        )

    async def admit(self, peer: str, target: str, headers: Headers, *, upgrade: bool) -> Visitor:
        """Let a request in.

        What it is for is checked as far as the address tells: whose stream somebody may watch is for those to
        see who know the streams.

        Args:
            peer: address of the other end of the connection.
            target: of the request, query included.
            headers: of it.
            upgrade: whether it asks for a WebSocket.

        Raises:
            AccessError: it is not let in.
        """
        path = urlsplit(target).path
        address = self.address(peer, headers)
        if path in _HEALTH:
            return Visitor(NOBODY, address)
        self.check_rate(address)
        if upgrade:
            self.check_origin(headers)
        if not path.startswith("/v1/") and path != "/metrics":
            return Visitor(NOBODY, address)  # a page, which is no secret
        watches = path.startswith("/v1/streams/")
        if watches and self._watch_by_link:
            return Visitor(VIEWER, address)
        identity = await self.identify(target, headers)
        if path == "/metrics" and not identity.is_admin():
            raise forbidden("metrics take the scope admin")
        if (upgrade or path == "/v1/stream") and not watches and not identity.may_speak():
            raise forbidden("starting streams takes the scope speak")
        return Visitor(identity, address)

    def address(self, peer: str, headers: Headers) -> str:
        """Where a request comes from, as far as those say it who are believed.

        Args:
            peer: address of the other end of the connection.
            headers: of the request.
        """
        hops = [hop.strip() for value in headers.get_all("X-Forwarded-For") for hop in value.split(",")]
        while hops and self._is_proxy(peer):
            peer = hops.pop()
        return peer

    def check_rate(self, address: str) -> None:
        """Count a request.

        Raises:
            AccessError: there were too many from there.
        """
        wait = self._connects.take(address) if self._connects is not None else 0.0
        if wait:
            raise AccessError(
                f"too many requests; try again in {wait:.1f} s",
                status=429,
                code="rate_limited",
                retry_after=wait,
            )

    def check_origin(self, headers: Headers) -> None:
        """See that a WebSocket was not opened by a page of somebody else's.

        Raises:
            AccessError: it was.
        """
        hosts = headers.get_all("Host")
        host = hosts[0] if len(hosts) == 1 else ""
        named = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() else host
        if self._local_names and named not in _LOOPBACK_NAMES:
            raise forbidden("this server is for this machine alone; call it localhost")
        for origin in headers.get_all("Origin"):
            if origin not in self._origins and origin not in (f"http://{host}", f"https://{host}"):
                raise forbidden("pages of this origin may not connect")

    async def identify(self, path: str, headers: Headers) -> Identity:
        """Who sends a request.

        Args:
            path: its target, query included.
            headers: of it.

        Raises:
            AccessError: he does not show anything, or nothing good.
        """
        if (shown := _shown(headers)) is not None:
            if self._keys is None and self._tokens is None:
                return ANYONE  # many clients cannot help sending a key
            return self._identify(shown)
        ticket = dict(parse_qsl(urlsplit(path).query)).get("ticket")
        if ticket is not None:
            return await self.tickets.take(ticket)
        if self._anonymous:
            return ANYONE
        raise unauthorized("a key, a token or a ticket is needed")

    def take_place(self, visitor: Visitor) -> Callable[[], None]:
        """Count a stream; returns what to call when it has ended.

        Raises:
            StreamError: he has too many already (``too_many_streams``).
        """
        taken: list[tuple[Places, str]] = []

        def leave() -> None:
            for places, who in taken:
                places.leave([who])
            taken.clear()

        for places, who in ((self._by_key, visitor.identity.name), (self._by_address, visitor.address)):
            if places is None or not who:
                continue
            if not places.take([who]):
                leave()
                raise StreamError(
                    "too many streams at a time; end one of them, or try again later",
                    code="too_many_streams",
                    retry_after=RETRY_SECONDS,
                )
            taken.append((places, who))
        return leave

    async def pace(self, visitor: Visitor, size: int) -> None:
        """Count a message, and wait while there were too many bytes lately."""
        if self._bytes is not None:
            await self._bytes.take_soon(visitor.owner, max(size, LEAST_BYTES))

    def _identify(self, shown: str) -> Identity:
        if len(shown) > LONGEST:
            raise unauthorized("what is shown is too long")
        if self._keys is not None and shown.startswith(PREFIX):
            identity = self._keys.identify(shown)
            if identity is None:
                raise unauthorized("the key is not good")
            return identity
        if self._tokens is None:
            raise unauthorized("the key is not good")
        return self._tokens.identify(shown)

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)


def _shown(headers: Headers) -> str | None:
    """The key or token of a request."""
    values = headers.get_all("Authorization")
    if values:
        kind, _, shown = values[0].partition(" ")
        if len(values) > 1 or kind.lower() != "bearer" or not shown.strip():
            raise unauthorized("Authorization must be Bearer and a key or token")
        return shown.strip()
    offered = [
        name.strip() for value in headers.get_all("Sec-WebSocket-Protocol") for name in value.split(",")
    ]
    for prefix in (BEARER_SUBPROTOCOL, OPENAI_SUBPROTOCOL):
        for name in offered:
            if name.startswith(prefix):
                return name.removeprefix(prefix)
    return None


def _buckets(rate: float, steady: Callable[[], float]) -> Buckets | None:
    return Buckets(rate, 2 * rate, steady) if rate else None
