"""Webhooks, checked as the Standard Webhooks specification tells receivers to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest

from tests.workers.sinks.conftest import caption
from workers.sinks.base import BusyError, ClosedError, RefusedError
from workers.sinks.webhook import Webhook

KEY = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def verified(request, key):
    """The body, if its signature is good."""
    signed = b".".join(
        (request.headers["webhook-id"].encode(), request.headers["webhook-timestamp"].encode(), request.body)
    )
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    return json.loads(request.body)


@pytest.mark.parametrize(("secret", "key"), [(SECRET, KEY), ("pässword", "pässword".encode())])
async def test_captions_are_signed(destination, secret, key):
    webhook = Webhook(f"{destination.url}/captions", secret, clock=lambda: 1_795_535_600.9)
    await webhook.send(caption(3, "¿Qué tal?\nBien.", start=1_795_535_592.25))
    await webhook.close()
    (request,) = destination.requests

    assert verified(request, key) == {
        "type": "caption",
        "stream_id": "s",
        "language": "en",
        "number": 3,
        "start": 1_795_535_592.25,
        "end": 1_795_535_594.25,
        "text": "¿Qué tal?\nBien.",
    }
    assert request.headers["webhook-timestamp"] == "1795535600"
    assert (request.method, request.path) == ("POST", "/captions")


async def test_a_repeated_attempt_has_the_same_id(destination):
    webhook = Webhook(destination.url, SECRET)
    destination.mishaps = [503]
    with pytest.raises(BusyError):
        await webhook.send(caption(1))
    await webhook.send(caption(1))
    await webhook.send(caption(2))
    await webhook.close()

    ids = [request.headers["webhook-id"] for request in destination.requests]
    assert ids == ["s.en.1", "s.en.1", "s.en.2"]


async def test_without_a_secret_there_is_no_signature(destination):
    webhook = Webhook(destination.url)
    await webhook.send(caption(1))
    await webhook.close()

    assert "webhook-signature" not in destination.requests[0].headers


@pytest.mark.parametrize(("status", "error"), [(410, ClosedError), (302, ClosedError), (422, RefusedError)])
async def test_what_the_endpoint_says_counts(destination, status, error):
    webhook = Webhook(destination.url)
    destination.mishaps = [status]
    with pytest.raises(error):
        await webhook.send(caption(1))
    await webhook.close()


def test_a_secret_that_is_none():
    with pytest.raises(ValueError, match="base64"):
        Webhook("http://a/", "whsec_???")
