"""What the server answers over plain HTTP."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import replace
from urllib.parse import urlsplit

import m3u8
import pytest
import webvtt

from pipeline.wire.events import Transcript
from pipeline.wire.protocol import Limits
from tests.pipeline.text.parsers import parse_subrip, parse_ttml, parse_webvtt
from tests.workers.conftest import client, running
from tests.workers.doubles import SpellingDecoder, SpellingEncoder, load_encoder, loaded
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker

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


async def headers(server, path):
    def request():
        with urllib.request.urlopen(server.http + path, timeout=10) as response:
            return response.headers

    return await asyncio.to_thread(request)


async def test_health_and_readiness(server):
    assert (await fetch(server, "/healthz"))[0] == 200
    assert (await fetch(server, "/readyz"))[0] == 200


async def test_not_ready_without_a_living_worker(server):
    server.pool.decoders.pumps[0].alive = False

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


@pytest.mark.parametrize("path", ["/", "/watch/x", "/overlay/x"])
async def test_pages(server, path):
    status, kind, body = await fetch(server, path)

    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert body.startswith("<!doctype html>")


async def test_what_the_server_can(server):
    status, kind, body = await fetch(server, "/v1/info")

    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {
        "model": "spelling",
        "languages": ["es", "en", "fr", "de"],
        "context": True,
        "limits": Limits().as_dict(),
    }


PARSERS = {
    "vtt": ("text/vtt; charset=utf-8", parse_webvtt),
    "srt": ("application/x-subrip; charset=utf-8", parse_subrip),
    "ttml": ("application/ttml+xml", parse_ttml),
}


async def test_files_of_a_running_and_of_a_finished_stream(server):
    async with client(server.url, START, b"ola.adios.", {"type": "mark"}) as speaker:
        ready = await speaker.receive()
        await speaker.until("mark")
        base = f"/v1/streams/{ready['stream_id']}"
        running = {form: await fetch(server, f"{base}.{form}?target=en") for form in (*PARSERS, "txt")}
        spoken = await fetch(server, f"{base}.txt?target=es")
        first = await fetch(server, f"{base}.vtt")
        await speaker.send({"type": "stop"})
        await speaker.rest()
    finished = {form: await fetch(server, f"{base}.{form}?target=en") for form in running}

    assert finished == running
    for form, (kind, parse) in PARSERS.items():
        assert running[form][:2] == (200, kind)
        assert [lines for _, _, lines in parse(running[form][2])] == [["en:OLA"], ["en:ADIOS"]]
    assert running["txt"] == (200, "text/plain; charset=utf-8", "en:OLA\nen:ADIOS\n")
    assert spoken[2] == "ola\nadios\n"
    assert first == running["vtt"]


async def test_the_transcript_has_all_languages(server):
    async with client(server.url, START | {"targets": ["en", "fr"]}, b"ola.adios.", {"type": "stop"}) as s:
        ready = (await s.rest())[0]
    status, kind, body = await fetch(server, f"/v1/streams/{ready['stream_id']}.json")

    transcript = json.loads(body)
    assert (status, kind) == (200, "application/json")
    assert (transcript["source"], transcript["targets"]) == ("es", ["en", "fr"])
    assert [said["transcript"] for said in transcript["utterances"]] == ["ola", "adios"]
    assert {said["language"] for said in transcript["utterances"]} == {"es"}
    assert transcript["utterances"][1]["translations"] == {"en": "en:ADIOS", "fr": "fr:ADIOS"}
    assert transcript["utterances"][0]["end"] <= transcript["duration"]


async def test_texts_of_a_stream_tell_the_language_that_was_detected():
    class Listener(SpellingDecoder):
        def steps(self, event):
            told = yield from super().steps(event)
            language = ("es", "en")[told[0].utterance % 2] if told else None
            return [replace(e, language=language) if isinstance(e, Transcript) else e for e in told]

    async with running(decoders=[DecoderWorker(lambda: loaded(Listener))]) as server:
        async with client(server.url, START | {"source": "auto"}, b"ola.hi.", {"type": "stop"}) as speaker:
            ready = (await speaker.rest())[0]
        path = f"/v1/streams/{ready['stream_id']}"
        transcript = json.loads((await fetch(server, f"{path}.json"))[2])
        files = {form: (await fetch(server, f"{path}.{form}?target=auto"))[2] for form in PARSERS}

    assert transcript["source"] == "auto"
    assert [(said["language"], said["transcript"]) for said in transcript["utterances"]] == [
        ("es", "ola"),
        ("en", "hi"),
    ]
    for form, (_, parse) in PARSERS.items():
        assert [lines for _, _, lines in parse(files[form])] == [["ola"], ["hi"]]
    assert 'xml:lang=""' in files["ttml"]


async def test_a_stream_is_described_before_and_after_its_end(server):
    async with client(server.url, START, b"hola.", {"type": "mark"}) as speaker:
        ready = await speaker.receive()
        await speaker.until("mark")
        path = f"/v1/streams/{ready['stream_id']}"
        before = json.loads((await fetch(server, path))[2])
        await speaker.send({"type": "stop"})
        done = (await speaker.rest())[-1]
    after = json.loads((await fetch(server, path))[2])

    assert before == {
        "stream_id": ready["stream_id"],
        "source": "es",
        "targets": ["en"],
        "audio_received": 2 / 16_000,
        "last_seq": before["last_seq"],
        "ended": False,
    }
    assert after == before | {"last_seq": done["seq"], "ended": True}


class PausingEncoder(SpellingEncoder):
    """Hears nothing in an underscore."""

    def steps(self, data):
        return super().steps(data.replace(b"_", b""))


@pytest.fixture(name="pausing")
async def _pausing():
    async with running(
        encoders=[EncoderWorker(lambda: replace(load_encoder(), open_stream=PausingEncoder))]
    ) as server:
        yield server


async def test_hls_of_a_live_stream(pausing):
    """A player's way: the playlist, then what it lists, each as an independent parser reads it."""
    server = pausing
    async with client(server.url, START) as speaker:
        ready = await speaker.receive()
        await speaker.send(*[b"hola." + b"_" * 31_995] * 5, {"type": "mark"})
        await speaker.until("mark")
        address = f"{server.http}/v1/streams/{ready['stream_id']}.m3u8?target=en&seconds=2&mpegts=900000"
        live = await asyncio.to_thread(m3u8.load, address)
        await speaker.send({"type": "stop"})
        await speaker.rest()
    whole = await asyncio.to_thread(m3u8.load, address)
    answers = [
        await fetch(server, urlsplit(s.absolute_uri)._replace(scheme="", netloc="").geturl())
        for s in whole.segments
    ]
    beyond = await fetch(server, f"/v1/streams/{ready['stream_id']}/en/99.vtt?seconds=2")

    assert (live.target_duration, live.is_endlist, len(live.segments)) == (2, False, 2)
    assert whole.is_endlist
    assert [s.uri for s in live.segments] == [s.uri for s in whole.segments][:2]
    assert {answer[:2] for answer in answers} == {(200, "text/vtt; charset=utf-8")}
    assert all("X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000" in body for _, _, body in answers)
    words = {caption.text for _, _, body in answers for caption in webvtt.from_string(body)}
    assert "en:HOLA" in " ".join(words)
    assert beyond[0] == 404


async def test_what_others_may_read_and_keep(pausing):
    server = pausing
    async with client(server.url, START, b"hola.", b"_" * 64_000, {"type": "mark"}) as speaker:
        ready = await speaker.receive()
        await speaker.until("mark")
        base = f"/v1/streams/{ready['stream_id']}"
        playlist = await headers(server, f"{base}.m3u8?seconds=2")
        segment = await headers(server, f"{base}/en/0.vtt?seconds=2")
        page = await headers(server, "/")

    assert playlist["Content-Type"] == "application/vnd.apple.mpegurl"
    assert playlist["Access-Control-Allow-Origin"] == segment["Access-Control-Allow-Origin"] == "*"
    assert playlist["Cache-Control"] == page["Cache-Control"] == "no-cache"
    assert "immutable" in segment["Cache-Control"]
    assert "Access-Control-Allow-Origin" not in page
    assert page["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (".m3u8?seconds=1", "seconds must be a whole number from 2 to 60, got '1'"),
        (".m3u8?mpegts=-1", "mpegts must be"),
        ("/en/0.vtt?seconds=x", "seconds must be"),
        ("/cues?lines=9", "lines must be"),
        ("/cues?lines=4&width=100", "cannot be read in 7.0 s"),
        ("/captions?after_seq=x", "after_seq must be"),
    ],
)
async def test_queries_that_are_not_accepted_are_named(server, path, sentence):
    async with client(server.url, START) as speaker:
        ready = await speaker.receive()
        answer = server.gateway._endpoints.get(f"/v1/streams/{ready['stream_id']}{path}", upgrade=True)

    assert answer.status == 400
    assert sentence in answer.body


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/nowhere", 404, "nothing is at /nowhere; try /v1/stream"),
        ("/v1/streams/none.vtt", 404, "no stream none is here"),
        ("/v1/streams/none.json", 404, "no stream none is here"),
        ("/v1/streams/none.m3u8", 404, "no stream none is here"),
        ("/v1/streams/none/en/0.vtt", 404, "no stream none is here"),
        ("/v1/streams/none", 404, "no stream none is here"),
        ("/v1/stream", 426, "WebSocket"),
        ("/v1/streams/none/captions", 426, "WebSocket"),
        ("/v1/streams/none/cues", 426, "WebSocket"),
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
