"""surtitle status shows what the metrics say."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from tests.workers.conftest import client, running
from workers import status
from workers.access.guard import Guard
from workers.access.keys import KeyRing, add_key
from workers.protocols import StreamError


async def shown(url, **options):
    text = io.StringIO()
    console = Console(file=text, width=100)
    await asyncio.to_thread(status.show, url, console=console, **options)
    return {line.split("│")[0].strip(): line.split("│")[1:] for line in text.getvalue().splitlines()}


async def test_a_server_that_works(server):
    start = {"type": "start", "partials": False}
    async with client(server.url, start, b"hola..") as speaker:
        await speaker.until("translation")
        rows = await shown(server.url, once=True)

    assert rows["streams"][0].strip() == "1"
    assert [cell.strip() for cell in rows["workers"]] == ["1", "1"]
    assert [cell.strip() for cell in rows["free places"]] == ["31", "31"]
    assert rows["final text behind the end of speech"][0].strip().endswith(" s")


async def test_a_key_is_shown_where_it_is_wanted(tmp_path, monkeypatch):
    key = add_key(tmp_path / "keys.json", "ops", ["admin"], lambda: 0)
    async with running(guard=Guard(keys=KeyRing(tmp_path / "keys.json"))) as server:
        with pytest.raises(StreamError, match="unauthorized: a key"):
            await shown(server.http, once=True)
        monkeypatch.setenv("SURTITLE_KEY", key)
        assert "streams" in await shown(server.http, once=True)


async def test_no_server_is_said_so():
    with pytest.raises(StreamError, match="no Surtitle server answers"):
        await shown("http://127.0.0.1:9", once=True)


def test_rates_are_of_the_last_second():
    def samples(audio, calls, seconds):
        return {
            ("surtitle_audio_received_seconds_total", ""): audio,
            ("surtitle_call_duration_seconds_count", "decoder"): calls,
            ("surtitle_call_duration_seconds_sum", "decoder"): seconds,
        }

    text = io.StringIO()
    Console(file=text, width=100).print(status.table(samples(25.0, 30, 4.0), samples(20.0, 10, 2.0), 1.0))

    assert "5.0 s" in text.getvalue()
    assert "0.100 s" in text.getvalue()
