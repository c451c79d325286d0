"""API keys: a file of their hashes, and ``surtitle keys`` which writes it.

A key is ``surtitle_ID_SECRET``. The secret has 256 random bits, so that a plain SHA-256 of the key is as good
as any slow hash: there is nothing to guess. Whoever reads the file cannot use the keys.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import SurtitleError
from workers.access.files import Watched
from workers.access.identity import ADMIN, SPEAK, WATCH, Identity

PREFIX = "surtitle_"

_SCOPE = re.compile(rf"{SPEAK}|{WATCH}(:[\w-]{{1,64}})?|{ADMIN}")
_NAME = re.compile(r"[\w.-]{1,64}")


class KeyFileError(SurtitleError, ValueError):
    """A file of keys that cannot be used, or a key that is not in it."""

    code = "bad_settings"


@dataclass(frozen=True)
class Key:
    """One key, without its secret.

    Args:
        id: by which it is named.
        tenant: whom it belongs to.
        scopes: what it is good for, see :class:`~workers.access.identity.Identity`.
        created: Unix time in seconds.
        sha256: of the whole key, in hexadecimal.
        revoked: Unix time in seconds since when it is good for nothing; ``None`` while it is.
    """

    id: str
    tenant: str
    scopes: tuple[str, ...]
    created: float
    sha256: str
    revoked: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.tenant):
            raise KeyFileError(f"a tenant is 1 to 64 letters, digits, dots and dashes, got {self.tenant!a}")
        for scope in self.scopes:
            if not _SCOPE.fullmatch(scope):
                raise KeyFileError(
                    f"unknown scope {scope!a}; accepted are {SPEAK}, {WATCH}, {WATCH}:ID, {ADMIN}"
                )
        if not self.scopes:
            raise KeyFileError("a key needs at least one scope")


class KeyRing:
    """The keys of a file, as of now.

    Args:
        path: the file that ``surtitle keys`` writes.

    Raises:
        KeyFileError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._keys = Watched(path, _parse)
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise KeyFileError(f"{path}: {error}") from None

    def identify(self, key: str) -> Identity | None:
        """Whose key it is; ``None`` for one that is not in the file, or revoked."""
        found = self._keys.get().get(_id(key))
        expected = found.sha256 if found is not None else ""
        if not hmac.compare_digest(_hash(key), expected) or found is None or found.revoked is not None:
            return None
        return Identity(found.tenant, f"key {found.id}", frozenset(found.scopes))


def add_key(path: Path, tenant: str, scopes: Sequence[str], clock: Callable[[], float]) -> str:
    """Add a new key to a file, which is made if need be; returns the key, which is written nowhere.

    Raises:
        KeyFileError: the file cannot be read or written, or a name is not accepted.
    """
    keys = read_keys(path) if path.exists() else {}
    identifier = secrets.token_hex(4)
    key = f"{PREFIX}{identifier}_{secrets.token_urlsafe(32)}"
    keys[identifier] = Key(identifier, tenant, tuple(scopes), round(clock()), _hash(key))
    _write(path, keys)
    return key


def revoke_key(path: Path, identifier: str, clock: Callable[[], float]) -> None:
    """Make a key good for nothing, from now on, also for servers that are running.

    Raises:
        KeyFileError: the file cannot be read or written, or has no such key.
    """
    keys = read_keys(path)
    if identifier not in keys:
        raise KeyFileError(f"{path}: has no key {identifier!a}; it has {', '.join(keys) or 'none'}")
    keys[identifier] = replace(keys[identifier], revoked=round(clock()))
    _write(path, keys)


def read_keys(path: Path) -> dict[str, Key]:
    """All keys of a file, by id.

    Raises:
        KeyFileError: it cannot be read.
    """
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise KeyFileError(f"{path}: {error}") from None


def listed(path: Path) -> str:
    """All keys of a file as a table, without their secrets.

    Raises:
        KeyFileError: it cannot be read.
    """
    lines = [f"{'id':<10}{'tenant':<20}{'made':<12}{'revoked':<12}scopes"]
    for key in read_keys(path).values():
        made, revoked = (
            "-" if moment is None else time.strftime("%Y-%m-%d", time.gmtime(moment))
            for moment in (key.created, key.revoked)
        )
        lines.append(f"{key.id:<10}{key.tenant:<20}{made:<12}{revoked:<12}{' '.join(key.scopes)}")
    return "\n".join([*lines, ""])


def _parse(data: bytes) -> dict[str, Key]:
    try:
        tables: Sequence[Mapping[str, Any]] = json.loads(data)["keys"]
        keys = [Key(**{**table, "scopes": tuple(table["scopes"])}) for table in tables]
    except (KeyError, TypeError, ValueError) as error:
        raise KeyFileError(f"not a file of keys ({error})") from None
    return {key.id: key for key in keys}


def _write(path: Path, keys: Mapping[str, Key]) -> None:
    """Replace the file in one step, readable by its owner alone."""
    text = json.dumps({"keys": [asdict(key) for key in keys.values()]}, indent=1) + "\n"
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from None


def _id(key: str) -> str:
    return key.removeprefix(PREFIX).partition("_")[0]


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
