"""What the server answers over plain HTTP."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

import pytest

from tests.workers.conftest import client

START = {"type": "start", "source": "es", "targets": ["en"], "partials": False}


async def fetch(server, path, method="GET"):
    def request():
        try:
            with urllib.request.urlopen(
                urllib.request.Request(server.http + path, method=method), timeout=10
            ) as response:
                return response.status, response.headers["Content-Type"], response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()

    return await asyncio.to_thread(request)


async def test_health_and_readiness(server):
    assert (await fetch(server, "/healthz"))[0] == 200
    assert (await fetch(server, "/readyz"))[0] == 200


async def test_not_ready_without_a_living_worker(server):
    server.gateway.registry._decoders[0].alive = False

    status, _, body = await fetch(server, "/readyz")

    assert status == 503
    assert body.startswith("not ready")
    assert (await fetch(server, "/healthz"))[0] == 200


async def test_metrics(server):
    async with client(server.url, START, b"hola.", b".", {"type": "stop"}) as speaker:
        await speaker.rest()

    status, kind, body = await fetch(server, "/metrics")

    assert status == 200
    assert kind.startswith("text/plain")
    assert "surtitle_streams_started_total 1.0" in body
    assert "surtitle_final_latency_seconds_count 2.0" in body


async def test_the_page(server):
    status, kind, body = await fetch(server, "/")

    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert "Surtitle" in body


async def test_subtitles_of_a_running_stream(server):
    async with client(server.url, START, b"hola..", {"type": "mark"}) as speaker:
        ready = await speaker.receive()
        await speaker.until("mark")
        base = f"/v1/streams/{ready['stream_id']}"
        vtt = await fetch(server, f"{base}.vtt?target=en")
        srt = await fetch(server, f"{base}.srt?target=es")
        first = await fetch(server, f"{base}.vtt")

    assert vtt[:2] == (200, "text/vtt; charset=utf-8")
    assert vtt[2].startswith("WEBVTT")
    assert "en:HOLA" in vtt[2]
    assert srt[:2] == (200, "application/x-subrip; charset=utf-8")
    assert "hola" in srt[2]
    assert first == vtt


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/nowhere", 404, "nothing is at /nowhere; try /v1/stream"),
        ("/v1/streams/none.vtt", 404, "no stream none is here"),
        ("/v1/stream", 426, "WebSocket"),
        ("/v1/streams/none/captions", 426, "WebSocket"),
    ],
)
async def test_what_is_not_there_is_said_so(server, path, status, sentence):
    answer = await fetch(server, path)

    assert answer[0] == status
    assert sentence in answer[2]


async def test_a_target_that_the_stream_has_not_is_said_so(server):
    async with client(server.url, START) as speaker:
        ready = await speaker.receive()
        status, _, body = await fetch(server, f"/v1/streams/{ready['stream_id']}.vtt?target=fr")

    assert status == 404
    assert "no target 'fr'; it has en, es" in body


async def test_only_get(server):
    assert (await fetch(server, "/", method="POST"))[0] == 405
