"""Who shows something good is let in, everybody else gets a clear answer, and nothing shown is repeated."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.error
import urllib.request

import pytest
from websockets.asyncio.client import connect
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from pipeline.wire.protocol import Limits
from tests.workers.access.test_tokens import NOW, jwk, sign, write
from tests.workers.conftest import client, finals, running
from workers.access.guard import AccessLimits, Guard
from workers.access.identity import AccessError
from workers.access.keys import KeyRing, add_key
from workers.access.tokens import LEEWAY, TokenVerifier
from workers.ledger import Ledger

START = {"type": "start", "partials": False}
SPEECH = (START, b"hola.", b".", {"type": "stop"})


@pytest.fixture(name="keys")
def _keys(tmp_path):
    """Keys by what they are good for; those of "other" are another tenant's."""
    path = tmp_path / "keys.json"
    scopes = {"speak": ["speak"], "watch": ["watch"], "both": ["speak", "watch"], "admin": ["admin"]}
    made = {name: add_key(path, "hall", scope, time.time) for name, scope in scopes.items()}
    made["other"] = add_key(path, "other", ["speak", "watch"], time.time)
    return made


@pytest.fixture(name="ring")
def _ring(keys, tmp_path):
    return KeyRing(tmp_path / "keys.json")


def bearer(key):
    return {"additional_headers": {"Authorization": f"Bearer {key}"}}


async def fetch(server, path, key=None, method="GET", **headers):
    def request():
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        asked = urllib.request.Request(server.http + path, method=method, headers=headers)
        if method == "POST":
            asked.data = b""
        try:
            with urllib.request.urlopen(asked, timeout=10) as response:
                return response.status, response.headers, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read().decode()

    return await asyncio.to_thread(request)


async def refused(url, **options):
    """The status that a connection is refused with."""
    with pytest.raises(InvalidStatus) as refusal:
        await connect(url, proxy=None, **options)
    return refusal.value.response.status_code


async def test_speaking_takes_a_key_by_any_way(ring, keys):
    ways = [
        bearer(keys["speak"]),
        {"subprotocols": [Subprotocol("surtitle.v1"), Subprotocol(f"surtitle.bearer.{keys['speak']}")]},
        {"subprotocols": [Subprotocol(f"openai-insecure-api-key.{keys['speak']}")]},
    ]
    async with running(guard=Guard(keys=ring)) as server:
        for way in ways:
            async with client(server.url, *SPEECH, **way) as speaker:
                assert finals(await speaker.rest())[0] == ("transcript", 0, "hola")
            assert speaker.connection.subprotocol in (None, "surtitle.v1")
        assert await refused(server.url) == 401
        assert await refused(server.url, **bearer("surtitle_0_wrong")) == 401
        assert await refused(server.url, **bearer(keys["speak"] + "x" * 5_000)) == 401
        assert await refused(server.url, additional_headers={"Authorization": "Basic eDp5"}) == 401
        assert await refused(server.url, **bearer(keys["watch"])) == 403
        assert await refused(server.url.replace("/v1/stream", "/v1/realtime")) == 401
        refusals = server.metrics.exposition()

    assert 'surtitle_requests_refused_total{code="unauthorized"} 5.0' in refusals
    assert 'surtitle_requests_refused_total{code="forbidden"} 1.0' in refusals


async def test_a_page_buys_tickets(ring, keys):
    async with running(guard=Guard(keys=ring)) as server:
        status, headers, body = await fetch(server, "/v1/tickets", keys["both"], "POST")
        assert (status, headers["Cache-Control"]) == (201, "no-store")
        address = f"{server.url}?ticket={json.loads(body)['ticket']}"
        async with client(address, START) as speaker:
            stream = (await speaker.receive())["stream_id"]
            assert await refused(address) == 401  # it was good once

            _, _, body = await fetch(server, f"/v1/tickets?watch={stream}", keys["both"], "POST")
            ticket = json.loads(body)["ticket"]
            assert (await fetch(server, f"/v1/streams/{stream}.vtt?ticket={ticket}"))[0] == 200
            assert await refused(f"{server.url}?ticket={ticket}") == 403
        assert (await fetch(server, "/v1/tickets", keys["watch"], "POST"))[0] == 403
        assert (await fetch(server, "/v1/tickets", None, "POST"))[0] == 401


async def test_gateways_that_share_a_ledger_take_each_others_tickets_once(ring, keys):
    ledger = Ledger()
    async with (
        running(guard=Guard(keys=ring), ledger=ledger) as first,
        running(guard=Guard(keys=ring), ledger=ledger) as second,
    ):
        _, _, body = await fetch(first, "/v1/tickets", keys["both"], "POST")
        query = f"?ticket={json.loads(body)['ticket']}"
        async with client(second.url + query, *SPEECH) as speaker:
            assert finals(await speaker.rest())
        assert [await refused(server.url + query) for server in (first, second)] == [401, 401]


async def test_a_tenant_sees_its_own_streams_alone(ring, keys):
    """Of others, not even that they are there."""
    async with (
        running(guard=Guard(keys=ring)) as server,
        client(server.url, START, b"hola.", b".", **bearer(keys["speak"])) as speaker,
    ):
        ready = (await speaker.until("translation"))[0]
        stream = ready["stream_id"]
        captions = server.url.replace("/v1/stream", f"/v1/streams/{stream}/captions")
        for path in (f"/v1/streams/{stream}{form}" for form in ("", ".vtt", ".json", ".m3u8")):
            assert (await fetch(server, path, keys["watch"]))[0] == 200
            assert (await fetch(server, path, keys["admin"]))[0] == 200
            assert (await fetch(server, path))[0] == 401
            unknown = await fetch(server, path.replace(stream, "x" * len(stream)), keys["other"])
            foreign = await fetch(server, path, keys["other"])
            assert (foreign[0], foreign[2].replace(stream, "")) == (404, unknown[2].replace("x" * 16, ""))
        async with connect(captions, proxy=None, **bearer(keys["watch"])) as viewer:
            assert "HOLA" in await viewer.recv()
        assert await refused(captions, **bearer(keys["other"])) == 404
        assert await refused(captions) == 401

        resume = {"stream_id": stream, "token": ready["token"], "after_seq": 0}
        async with client(server.url, {"type": "start", "resume": resume}, **bearer(keys["other"])) as thief:
            assert (await thief.rest())[-1]["code"] == "unknown_stream"


async def test_a_link_is_enough_to_watch_where_that_is_wanted(ring, keys):
    """Whatever else is shown; and enough for nothing else."""
    async with (
        running(guard=Guard(keys=ring, watch_by_link=True)) as server,
        client(server.url, START, b"hola.", b".", **bearer(keys["speak"])) as speaker,
    ):
        ready = (await speaker.until("translation"))[0]
        stream = ready["stream_id"]
        forms = ["", ".vtt", ".srt", ".ttml", ".txt", ".json", ".m3u8"]
        for path in (f"/v1/streams/{stream}{form}" for form in forms):
            for key in (None, keys["speak"], keys["other"], "surtitle_0_revoked"):
                assert (await fetch(server, path, key))[0] == 200
        for what, text in (("captions", "HOLA"), ("cues", "HOLA")):
            address = server.url.replace("/v1/stream", f"/v1/streams/{stream}/{what}")
            async with connect(address, proxy=None) as viewer:
                assert text in await viewer.recv()
        other = "x" * len(stream)
        assert (await fetch(server, f"/v1/streams/{other}.vtt"))[0] == 404
        assert await refused(server.url.replace("/v1/stream", f"/v1/streams/{other}/captions")) == 404

        for path in ("/v1/info", "/metrics", "/v1/stream", "/v1/realtime", "/v1/streams", "/v1/vosk/es"):
            assert (await fetch(server, path))[0] == 401
        assert (await fetch(server, f"/v1/tickets?watch={stream}", None, "POST"))[0] == 401
        assert (await fetch(server, "/v1/tickets", None, "POST"))[0] == 401
        assert await refused(server.url) == 401
        for dialect in ("realtime", "realtime/translations", "simulstream", "vosk/es"):
            assert await refused(server.url.replace("/v1/stream", f"/v1/{dialect}")) == 401
        for way_round in ("../stream", "../../metrics", "%2e%2e/stream", ""):
            path = f"/v1/streams/{way_round}"
            assert (await fetch(server, path))[0] == 404
            assert await refused(server.url.replace("/v1/stream", path)) == 404


async def test_a_page_learns_over_http_why_it_may_not_speak(ring, keys):
    async with running(guard=Guard(keys=ring)) as server:
        answers = [
            (await fetch(server, "/v1/stream", key))[::2] for key in (None, keys["watch"], keys["speak"])
        ]

    assert [status for status, _ in answers] == [401, 403, 426]
    assert answers[1][1] == "forbidden: starting streams takes the scope speak\n"


async def test_what_is_everybodys_and_what_is_the_operators(ring, keys):
    async with running(guard=Guard(keys=ring)) as server:
        for path in ("/", "/healthz", "/readyz", "/pages/watch.js"):
            assert (await fetch(server, path))[0] == 200
        status, headers, body = await fetch(server, "/metrics")
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert body.startswith("unauthorized: ")
        assert (await fetch(server, "/metrics", keys["both"]))[0] == 403
        assert (await fetch(server, "/metrics", keys["admin"]))[0] == 200
        assert (await fetch(server, "/v1/info", keys["watch"]))[0] == 200


async def test_a_connection_ends_when_its_token_does(tmp_path):
    write(tmp_path / "jwks.json", jwk("now"))
    moment = [NOW]
    verifier = TokenVerifier(tmp_path / "jwks.json", audience="surtitle", clock=lambda: moment[0])
    token = sign(exp=NOW - LEEWAY + 0.3)
    async with (
        running(guard=Guard(tokens=verifier, clock=lambda: NOW)) as server,
        client(server.url, START, **bearer(token)) as speaker,
    ):
        await speaker.rest()

    assert speaker.closed_with == 4401


@pytest.mark.parametrize(
    ("origin", "status"),
    [(None, 200), ("http://{host}", 200), ("https://talks.example", 200), ("http://evil.example", 403),
     ("https://talks.example.evil.example", 403), ("null", 403)],
)  # fmt: skip
async def test_pages_of_others_may_not_connect(origin, status):
    async with running(guard=Guard(origins=["https://talks.example"])) as server:
        origin = origin and origin.format(host=server.address)
        if status == 200:
            async with client(server.url, *SPEECH, origin=origin) as speaker:
                assert (await speaker.rest())[-1]["type"] == "done"
        else:
            assert await refused(server.url, origin=origin) == status


async def test_a_name_that_was_made_to_point_here_is_none_of_ours():
    async with running(guard=Guard(local_names=True)) as server:
        port = server.address.rpartition(":")[2]
        evil = f"evil.example:{port}"
        assert await refused(f"ws://{evil}/v1/stream", host="127.0.0.1", port=port) == 403
        async with client(f"ws://localhost:{port}/v1/stream", *SPEECH) as speaker:
            assert (await speaker.rest())[-1]["type"] == "done"


async def test_too_many_requests_are_refused_with_a_hint():
    async with running(guard=Guard(limits=AccessLimits(connects_per_second=2), steady=lambda: 0.0)) as server:
        answers = [await fetch(server, "/v1/info") for _ in range(5)]
        assert await refused(server.url) == 429
        assert (await fetch(server, "/healthz"))[0] == 200

    assert [status for status, _, _ in answers] == [200] * 4 + [429]
    assert answers[-1][1]["Retry-After"] == "1"


@pytest.mark.parametrize("limits", [AccessLimits(streams_per_key=1), AccessLimits(streams_per_address=1)])
async def test_so_many_streams_at_a_time(ring, keys, limits):
    async with running(guard=Guard(keys=ring, limits=limits)) as server:
        async with client(server.url, START, **bearer(keys["speak"])) as first:
            await first.receive()
            async with client(server.url, START, **bearer(keys["speak"])) as second:
                (error,) = await second.rest()
            await first.send({"type": "stop"})
            await first.rest()
        assert (error["code"], error["retry_after"], second.closed_with) == ("too_many_streams", 5.0, 1013)
        async with client(server.url, *SPEECH, **bearer(keys["speak"])) as third:
            assert (await third.rest())[-1]["type"] == "done"


async def test_who_sends_too_fast_is_read_from_more_slowly():
    limits = AccessLimits(bytes_per_second=2_000)
    async with running(guard=Guard(limits=limits)) as server, client(server.url, START) as speaker:
        began = time.monotonic()
        await speaker.send(*[b"a" * 1_000] * 6, {"type": "stop"})
        await speaker.rest()

    assert time.monotonic() - began > 0.9  # 6,000 bytes, of which 4,000 may come at once


async def test_who_says_nothing_and_who_says_too_much(ring):
    limits = Limits(idle_seconds=0.1, stream_seconds=1.0)
    async with running(limits=limits) as server:
        async with client(server.url, START) as silent:
            idle = (await silent.rest())[-1]
        async with client(server.url, START, b"a" * 32_000, b"a" * 32_000) as long:
            too_long = (await long.rest())[-1]

    assert (idle["code"], idle["fatal"], silent.closed_with) == ("idle", True, 1008)
    assert (too_long["code"], too_long["fatal"]) == ("stream_too_long", True)


def test_only_proxies_that_are_known_are_believed():
    guard = Guard(proxies=["10.0.0.0/8"])
    forwarded = Headers([("X-Forwarded-For", "6.6.6.6, 192.0.2.7"), ("X-Forwarded-For", "10.1.1.1")])

    assert guard.address("10.2.2.2", forwarded) == "192.0.2.7"
    assert guard.address("192.0.2.9", forwarded) == "192.0.2.9"
    assert guard.address("10.2.2.2", Headers()) == "10.2.2.2"


async def test_two_things_shown_are_one_too_many(ring, keys):
    twice = Headers([("Authorization", f"Bearer {keys['speak']}"), ("Authorization", "Bearer x")])

    with pytest.raises(AccessError, match="Authorization must be Bearer"):
        await Guard(keys=ring).identify("/v1/stream", twice)


async def test_nothing_that_was_shown_is_logged(ring, keys, caplog):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # as workers.serve does
    async with running(guard=Guard(keys=ring)) as server:
        async with client(server.url, *SPEECH, **bearer(keys["speak"])) as speaker:
            token = (await speaker.rest())[0]["token"]
        await refused(server.url, **bearer("surtitle_0_secretsecret"))
        await refused(f"{server.url}?ticket=secretsecret")

    assert "secretsecret" not in caplog.text
    assert keys["speak"] not in caplog.text
    assert token not in caplog.text
