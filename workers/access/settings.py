"""``[security]`` and ``[limits]`` of ``surtitle.toml``, and the guard that they make.

.. code-block:: toml

    [security]
    keys = "/etc/surtitle/keys.json"     # written by "surtitle keys"
    jwks = "/etc/surtitle/jwks.json"     # public keys of whoever makes JSON Web Tokens
    audience = "surtitle"                # that tokens must be for
    issuer = "https://id.example.org"    # that must have made them; any, by default
    origins = ["https://example.org"]    # of pages that may connect, besides our own
    proxies = ["10.0.0.0/8"]             # whose X-Forwarded-For is believed
    certificate = "/etc/surtitle/tls.crt"
    private_key = "/etc/surtitle/tls.key"
    allow_anonymous = false              # true: let everybody in, also from other machines
    watch_by_link = false                # true: whoever has a stream's link may watch it without a key

    [limits]                             # 0 is without a limit
    connects_per_second = 20             # from one address; twice as many at once
    streams_per_key = 100
    streams_per_address = 0
    bytes_per_second = 0                 # of one key; who sends faster is slowed down
    frame_bytes = 65536
    stream_seconds = 43200
    idle_seconds = 600                   # without any message
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.wire.protocol import Limits
from workers.access.guard import AccessLimits, Guard
from workers.access.keys import KeyRing
from workers.access.tls import Certificate
from workers.access.tokens import TokenVerifier


@dataclass(frozen=True)
class AccessSettings:
    """Who may connect and how much everybody may have; see the module's example.

    Raises:
        ValueError: a value that is not accepted, or two that do not go together.
    """

    keys: str | None = None
    jwks: str | None = None
    audience: str = "surtitle"
    issuer: str | None = None
    origins: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    certificate: str | None = None
    private_key: str | None = None
    allow_anonymous: bool = False
    watch_by_link: bool = False
    connects_per_second: float = 20.0
    streams_per_key: int = 100
    streams_per_address: int = 0
    bytes_per_second: float = 0.0
    frame_bytes: int = 65_536
    stream_seconds: float = 43_200.0
    idle_seconds: float = 600.0

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together")
        for name in _LIMITS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 1_024 <= self.frame_bytes <= 1 << 20:
            raise ValueError(f"frame_bytes must be from 1024 to 1048576, got {self.frame_bytes}")
        for proxy in self.proxies:
            ipaddress.ip_network(proxy)

    @property
    def authenticates(self) -> bool:
        """Whether people have to show something."""
        return (self.keys is not None or self.jwks is not None) and not self.allow_anonymous

    def limits(self, resume_seconds: float) -> Limits:
        """What clients must keep to."""
        return Limits(
            frame_bytes=self.frame_bytes,
            resume_seconds=resume_seconds,
            stream_seconds=self.stream_seconds,
            idle_seconds=self.idle_seconds,
        )

    def guard(self, host: str, clock: Callable[[], float]) -> Guard:
        """The guard of a server that listens on ``host``.

        Raises:
            ValueError: other machines can reach that address, and nobody would have to show anything.
            SurtitleError: a file cannot be used.
        """
        local = is_loopback(host)
        if not (local or self.authenticates or self.allow_anonymous):
            raise ValueError(
                f"everybody who can reach {host} could use this server; name a file of keys or a JWKS under "
                "[security] (see docs/security.md), or say allow_anonymous = true"
            )
        return Guard(
            keys=None if self.keys is None else KeyRing(Path(self.keys)),
            tokens=None
            if self.jwks is None
            else TokenVerifier(Path(self.jwks), audience=self.audience, issuer=self.issuer, clock=clock),
            anonymous=self.allow_anonymous,
            watch_by_link=self.watch_by_link,
            origins=self.origins,
            local_names=local and not self.authenticates,
            proxies=self.proxies,
            limits=AccessLimits(
                connects_per_second=self.connects_per_second,
                streams_per_key=self.streams_per_key,
                streams_per_address=self.streams_per_address,
                bytes_per_second=self.bytes_per_second,
            ),
            clock=clock,
        )

    def tls(self) -> Certificate | None:
        """With what connections are encrypted.

        Raises:
            CertificateError: the files cannot be used.
        """
        if self.certificate is None or self.private_key is None:
            return None
        return Certificate(Path(self.certificate), Path(self.private_key))


_LIMITS = tuple(field.name for field in fields(AccessSettings) if str(field.type) in ("int", "float"))
_TABLES = {
    "limits": _LIMITS,
    "security": tuple(field.name for field in fields(AccessSettings) if field.name not in _LIMITS),
}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "tuple[str, ...]": (list,),
}


def read_access(tables: Mapping[str, Any]) -> AccessSettings:
    """Settings of the tables ``security`` and ``limits``, which may be missing.

    Raises:
        ValueError: an unknown key, or a value that is not accepted.
    """
    types = {field.name: str(field.type) for field in fields(AccessSettings)}
    values: dict[str, Any] = {}
    for table, known in _TABLES.items():
        for key, value in tables.get(table, {}).items():
            if key not in known:
                raise ValueError(f"[{table}] has no key {key!r}; accepted are {', '.join(known)}")
            wanted = types[key]
            is_wanted = isinstance(value, _TYPES[wanted]) and isinstance(value, bool) == (wanted == "bool")
            if not is_wanted or (isinstance(value, list) and not all(isinstance(v, str) for v in value)):
                raise ValueError(f"{table}.{key} must be of type {wanted}, got {value!r}")
            values[key] = tuple(value) if isinstance(value, list) else value
    return AccessSettings(**values)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)  # noqa: S104
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)
