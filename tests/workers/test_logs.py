"""Logs are lines for people or objects for programs; streams are named in them, and nothing that was said."""

from __future__ import annotations

import io
import json
import logging

from tests.workers.conftest import client, running
from workers.logs import JsonFormatter


def test_a_record_is_an_object():
    record = logging.makeLogRecord(
        {
            "name": "workers.x",
            "levelname": "WARNING",
            "msg": "%s ñ",
            "args": ("so",),
            "created": 1.5,
            "stream": "a",
        }
    )

    assert json.loads(JsonFormatter().format(record)) == {
        "time": "1970-01-01T00:00:01.500+00:00",
        "level": "warning",
        "logger": "workers.x",
        "event": "so ñ",
        "stream": "a",
    }


async def test_a_stream_is_followed_by_its_id_and_not_by_its_words():
    text, root = io.StringIO(), logging.getLogger("workers")
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    try:
        start = {"type": "start", "partials": False}
        async with running() as server:
            async with client(server.url, start, b"hola..", {"type": "stop"}) as speaker:
                stream = (await speaker.rest())[0]["stream_id"]
            async with client(server.url, start, b"secreto!") as speaker:
                await speaker.rest()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)

    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    assert [line["event"] for line in lines if line.get("stream") == stream] == ["started", "ended"]
    assert lines[1]["audio_seconds"] > 0
    assert "hola" not in text.getvalue().lower()
    assert "secreto" not in text.getvalue()
