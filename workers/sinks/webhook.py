"""Any HTTP endpoint: captions as JSON, signed as in the *Standard Webhooks* specification (version 1)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable

from workers.sinks.base import Caption
from workers.sinks.http import HttpSink, judge

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with is none


class Webhook(HttpSink):
    """One endpoint.

    Args:
        url: where to ``POST``.
        secret: shared with the endpoint: text, or ``whsec_`` and base64. Empty for no signature.
        clock: Unix time in seconds.

    Raises:
        ValueError: the secret is neither.
    """

    def __init__(self, url: str, secret: str = "", clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._url = url
        self._secret = _key(secret)
        self._clock = clock

    async def send(self, caption: Caption) -> None:
        """Post a caption; its id is the same in every attempt."""
        identity = f"{caption.stream}.{caption.language}.{caption.number}"
        body = json.dumps(
            {
                "type": "caption",
                "stream_id": caption.stream,
                "language": caption.language,
                "number": caption.number,
                "start": caption.start,
                "end": caption.end,
                "text": caption.text,
            },
            ensure_ascii=False,
        ).encode()
        headers = {"Content-Type": "application/json", "webhook-id": identity}
        headers["webhook-timestamp"] = str(int(self._clock()))
        if self._secret:
            signed = f"{identity}.{headers['webhook-timestamp']}.".encode() + body
            digest = hmac.new(self._secret, signed, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        judge(await self._http.exchange("POST", self._url, content=body, headers=headers))


def _key(secret: str) -> bytes:
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"a secret that begins with {SECRET_PREFIX} goes on in base64") from None
