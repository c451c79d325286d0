"""TLS with certificate files that may be renewed while the server runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from pipeline.errors import SurtitleError
from workers.access.files import Watched

LOOK_SECONDS = 10.0
"""How often it is looked whether the certificate was renewed."""

logger = logging.getLogger(__name__)


class CertificateError(SurtitleError):
    """A certificate or its key that cannot be used."""

    code = "bad_settings"


class Certificate:
    """A TLS context that takes a renewed certificate for the connections that come after.

    Args:
        chain: PEM file with the certificate and those between it and the authority.
        key: PEM file with its private key, without a password.

    Raises:
        CertificateError: they cannot be used.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._chain = chain
        self._key = key
        try:
            # A renewal writes both files, one after the other: in between they do not fit and are left.
            self._files = [Watched(path, lambda _: self._load()) for path in (chain, key)]
        except (OSError, ValueError) as error:
            raise CertificateError(f"{chain}, {key}: no usable certificate ({error})") from None

    def refresh(self) -> None:
        """Take what has changed."""
        for file in self._files:
            file.get()

    async def keep_fresh(self) -> None:
        """Take what has changed, now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.refresh()

    def _load(self) -> None:
        try:
            # First into one that nobody uses: half of a renewal would leave the other without any key.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._chain, self._key)
            self.context.load_cert_chain(self._chain, self._key)
        except ssl.SSLError as error:
            raise ValueError(error.reason or "not PEM") from None
