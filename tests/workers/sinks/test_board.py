"""Streams of a running server and the sinks that its operator has configured."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from tests.workers.conftest import client, eventually, running
from tests.workers.doubles import SpellingDecoder, loaded
from workers.decoder import DecoderWorker
from workers.sinks.config import read_sink


def sink(name, url, **more):
    return read_sink({"name": name, "kind": "webhook", "language": "en", "url": url, **more})


def texts(destination):
    return [json.loads(request.body)["text"] for request in destination.requests]


async def arrived(destination, count):
    async def enough():
        return len(destination.requests) >= count

    await eventually(enough)
    return texts(destination)


async def speak(server, *words, **start):
    async with client(server.url, {"type": "start", "partials": False, **start}) as speaker:
        await speaker.send(*words, {"type": "stop"})
        return await speaker.rest()


async def test_a_stream_has_the_sinks_that_it_names(destination):
    sinks = [sink("hall", f"{destination.url}/hall"), sink("other", f"{destination.url}/other")]
    async with running(sinks=sinks) as server:
        await speak(server, b"hola..", sinks=["hall"])
        await speak(server, b"adios.", sinks=[])
        assert await arrived(destination, 1) == ["en:HOLA"]

    assert {request.path for request in destination.requests} == {"/hall"}


async def test_a_sink_of_every_stream_takes_those_with_its_language(destination):
    async with running(sinks=[sink("hall", destination.url, always=True)]) as server:
        await speak(server, b"hola..", targets=["fr"])
        await speak(server, b"adios.", targets=["fr", "en"])

        assert await arrived(destination, 1) == ["en:ADIOS"]


class Polyglot(SpellingDecoder):
    """Detects Spanish and English in turn; where that is a target, its translation is the transcript."""

    def steps(self, event):
        told = yield from super().steps(event)
        if not told:
            return []
        (said, *translations), language = told, ("es", "en")[told[0].utterance % 2]
        repeated = [replace(e, stable=said.stable) if e.target == language else e for e in translations]
        return [replace(said, language=language), *repeated]


@pytest.mark.parametrize("source", ["auto", "es,en"])
async def test_a_sink_gets_the_utterances_in_its_language_where_that_is_detected(destination, source):
    """And one for a target gets each once, those too whose transcript it is."""
    sinks = [
        sink("said", f"{destination.url}/es", language="es"),
        sink("hall", f"{destination.url}/en"),
        sink("every", f"{destination.url}/every", language="es", always=True),
        sink("other", f"{destination.url}/other", language="de", always=True),
    ]
    decoder = DecoderWorker(lambda: loaded(Polyglot))
    async with running(sinks=sinks, decoders=[decoder], languages=("es", "en")) as server:
        await speak(server, b"hola.hi.", source=source, sinks=["said", "hall"])
        await arrived(destination, 4)
        got = [(request.path, json.loads(request.body)) for request in destination.requests]

    assert sorted((path, caption["language"], caption["text"]) for path, caption in got) == [
        ("/en", "en", "en:HOLA"),
        ("/en", "en", "hi"),
        ("/es", "es", "hola"),
        ("/every", "es", "hola"),
    ]


async def test_the_newest_stream_has_the_sink(destination):
    async with running(sinks=[sink("hall", destination.url)]) as server:
        start = {"type": "start", "partials": False, "sinks": ["hall"]}
        async with client(server.url, start) as old, client(server.url, start) as new:
            await old.until("ready")
            await new.until("ready")
            await old.send(b"viejo.", {"type": "mark"})
            await old.until("mark")
            await new.send(b"nuevo.")

            assert await arrived(destination, 1) == ["en:NUEVO"]


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ({"sinks": ["lobby"]}, "no sink 'lobby'"),
        ({"sinks": ["hall"], "targets": ["fr"]}, "is for en"),
        ({"sinks": ["hall"], "targets": ["fr"], "source": "es,de"}, "is for en"),
        ({"sinks": [{"kind": "webhook", "url": "http://169.254.169.254/"}]}, "must be a string"),
        ({"sinks": "hall"}, "list of at most"),
    ],
)
async def test_what_cannot_be_had_is_refused(destination, start, says):
    """Names alone come from clients: there is no way to have the server call an address."""
    async with running(sinks=[sink("hall", destination.url)]) as server:
        received = await speak(server, **start)

    assert (received[0]["code"], received[0]["fatal"]) == ("bad_message", True)
    assert says in received[0]["message"]
    assert destination.requests == []


async def test_a_meeting_may_change_its_address(destination, tmp_path):
    file = tmp_path / "url"
    file.write_text(f"{destination.url}/monday")
    settings = read_sink({"name": "hall", "kind": "webhook", "language": "en", "url_file": str(file)})
    async with running(sinks=[settings]) as server:
        await speak(server, b"lunes.", sinks=["hall"])
        await arrived(destination, 1)
        file.write_text(f"{destination.url}/tuesday")
        await speak(server, b"martes", sinks=["hall"])
        await arrived(destination, 2)

    assert [request.path for request in destination.requests] == ["/monday", "/tuesday"]


async def test_a_sink_that_cannot_be_used_leaves_the_stream_alone(tmp_path, caplog):
    settings = read_sink(
        {"name": "hall", "kind": "webhook", "language": "en", "url_file": str(tmp_path / "none")}
    )
    async with running(sinks=[settings]) as server:
        received = await speak(server, b"hola..", sinks=["hall"])

    assert received[-1]["type"] == "done"
    assert "sink hall cannot be used" in caplog.text


async def test_a_sink_that_does_not_answer_leaves_the_stream_alone():
    """Not even its server's end waits for it."""

    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(4):
        async with running(sinks=[sink("hall", url)]) as server:
            received = await speak(server, b"hola..", b"adios.", sinks=["hall"])
    silent.close()

    assert received[-1]["utterances"] == 3
