"""Who somebody is and what he may do, once that has been proved."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import SurtitleError

SPEAK, WATCH, ADMIN = "speak", "watch", "admin"


class AccessError(SurtitleError):
    """Somebody who is not let in.

    Args:
        message: why, in a sentence fit for him; without anything of what he showed.
        status: of the HTTP response.
        code: the reason as a word.
        retry_after: seconds after which another try makes sense; ``None`` where it does not.
    """

    def __init__(self, message: str, *, status: int, code: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True)
class Identity:
    """Who has been let in.

    Args:
        tenant: whose streams he may have to do with; nobody sees another tenant's.
        name: of the key, or of the token's subject: limits are counted by it.
        scopes: ``speak``, ``watch`` (all of the tenant's streams), ``watch:ID`` (one of them), ``admin``
            (metrics, and all streams of all tenants).
        expires: Unix time in seconds after which it is over; ``None`` for never.
        by_link: whether he may read every stream whose id he knows.
    """

    tenant: str
    name: str
    scopes: frozenset[str]
    expires: float | None = None
    by_link: bool = False

    def may_speak(self) -> bool:
        """Whether he may start streams."""
        return SPEAK in self.scopes or self.is_admin()

    def may_watch(self, stream: str, tenant: str) -> bool:
        """Whether he may read a stream of a tenant."""
        if self.is_admin() or self.by_link:
            return True
        return tenant == self.tenant and (WATCH in self.scopes or f"{WATCH}:{stream}" in self.scopes)

    def is_admin(self) -> bool:
        """Whether he operates the server."""
        return ADMIN in self.scopes


ANYONE = Identity("", "", frozenset((SPEAK, WATCH, ADMIN)))
"""Everybody, where nobody has to prove anything."""

NOBODY = Identity("", "", frozenset())
"""Who asks for what is everybody's."""

VIEWER = Identity("", "", frozenset(), by_link=True)
"""Who has a stream's link, where that is enough to watch it."""


def unauthorized(why: str) -> AccessError:
    """Somebody who has not proved who he is."""
    return AccessError(why, status=401, code="unauthorized")


def forbidden(why: str) -> AccessError:
    """Somebody who may not do what he wants."""
    return AccessError(why, status=403, code="forbidden")
