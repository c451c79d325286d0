"""JSON Web Tokens of somebody else's making: verified with the public keys in a file (a JWKS, RFC 7517).

Keys are rotated by writing the new one into the file beside the old, having tokens signed with it, and taking
the old one out; the file is read again whenever it has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt

from pipeline.errors import SurtitleError
from workers.access.files import Watched
from workers.access.identity import Identity, unauthorized

LEEWAY = 30.0
"""Seconds by which clocks may differ."""

_ALGORITHMS = frozenset(("RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512"))


class KeySetError(SurtitleError):
    """A JWKS file that cannot be used."""

    code = "bad_settings"


class TokenVerifier:
    """Verifies tokens.

    Args:
        path: of the JWKS file. The algorithm is that of the key, never what a token claims.
        audience: that a token must be for.
        issuer: that must have made it; ``None`` for any whose key is in the file.
        clock: Unix time in seconds.

    Raises:
        KeySetError: the file cannot be used.
    """

    def __init__(
        self, path: Path, *, audience: str, issuer: str | None = None, clock: Callable[[], float]
    ) -> None:
        try:
            self._keys = Watched(path, _parse)
        except OSError as error:
            raise KeySetError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise KeySetError(f"{path}: not a JWKS ({error})") from None
        self._audience = audience
        self._issuer = issuer
        self._clock = clock

    def identify(self, token: str) -> Identity:
        """Whose token it is. ``tenant`` (or else ``sub``) names the tenant, ``scope`` the scopes.

        Raises:
            AccessError: it is not good, or not any more.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get().get(kid)
            if key is None:
                raise unauthorized("the token is signed with a key that is not known here")
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                # Time is checked below, by our own clock.
                options={"require": ["exp", "aud", "sub"], "verify_exp": False, "verify_nbf": False},
            )
        except jwt.PyJWTError as error:
            # The kind alone: messages can quote the token.
            raise unauthorized(f"the token is not accepted ({type(error).__name__})") from None
        return self._identity(claims)

    def _identity(self, claims: dict[str, Any]) -> Identity:
        now, expires, begins = self._clock(), claims["exp"], claims.get("nbf", 0)
        if not all(isinstance(moment, int | float) for moment in (expires, begins)):
            raise unauthorized("the token's times are no numbers")
        if expires <= now - LEEWAY or begins > now + LEEWAY:
            raise unauthorized("the token is expired, or not valid yet")
        scope, tenant = claims.get("scope", ""), claims.get("tenant", claims["sub"])
        if not isinstance(scope, str) or not isinstance(tenant, str) or not tenant:
            raise unauthorized("the token's scope and tenant must be text")
        return Identity(tenant, f"subject {claims['sub']}", frozenset(scope.split()), expires + LEEWAY)


def _parse(data: bytes) -> dict[str | None, jwt.PyJWK]:
    try:
        keys = jwt.PyJWKSet.from_dict(json.loads(data)).keys
    except (jwt.PyJWTError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from None
    for key in keys:
        if key.algorithm_name not in _ALGORITHMS:
            raise ValueError(f"key {key.key_id!r} is for {key.algorithm_name}, which is not accepted")
    return {key.key_id: key for key in keys}
