"""The client's conversation, whatever happens to its connections."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets import serve

from pipeline.audio.pcm import to_s16le
from pipeline.config import AudioFormat
from pipeline.errors import AudioError
from pipeline.wire import commands, events
from pipeline.wire.protocol import SUBPROTOCOL
from tests.conftest import ROOT
from tests.pipeline.audio.test_codecs import FILES, decode
from tests.workers.conftest import client, eventually, running
from tests.workers.doubles import SpellingEncoder, loaded
from workers.client import _Speech, converse
from workers.encoder import EncoderWorker
from workers.protocols import StreamError

FINALS = commands.Start(partials=False)


async def frames(*pieces):
    for piece in pieces:
        yield piece


async def conversation(url, start, *pieces, **options):
    return [event async for event in converse(url, start, frames(*pieces), **options)]


def texts(received):
    return [event.stable for event in received if isinstance(event, events.UtteranceText) and event.final]


def cut_all(server):
    for connection in list(server.listener.connections):
        connection.transport.abort()


async def test_a_conversation_yields_events(server):
    received = await conversation(server.url, FINALS, b"ho", b"la..")

    assert [type(event) for event in received[:3]] == [events.Ready, events.Transcript, events.Translation]
    assert received[0].targets == ("en",)
    assert isinstance(received[-1], events.Done)


async def test_commands_are_said_between_audio(server):
    update = commands.Update(targets=("fr",))
    received = await conversation(
        server.url,
        FINALS,
        b"hola",
        commands.Flush(),
        commands.Mark("here"),
        update,
        b"adio",
        commands.Flush(),
    )

    assert texts(received) == ["hola", "en:HOLA", "adio", "fr:ADIO"]
    assert [event.id for event in received if isinstance(event, events.Mark)] == ["here"]


@pytest.mark.parametrize("breaks", [{0}, {1, 2, 3}, set(range(10))])
async def test_broken_connections_lose_and_repeat_nothing(server, breaks):
    words = [b"uno.", b"do", b"s.tres", b".", b"\x63u", b"atro..", b"cinco.", b"se", b"is", b"x."]

    async def speech():
        for number, word in enumerate(words):
            yield word
            if number in breaks:
                cut_all(server)

    received = [event async for event in converse(server.url, FINALS, speech())]

    expected = await conversation(server.url, FINALS, b"".join(words))
    assert texts(received) == texts(expected)
    assert [event.seq for event in received] == list(range(1, len(received) + 1))
    assert received[-1].audio_seconds == expected[-1].audio_seconds


async def test_a_connection_that_breaks_behind_the_last_word(server):
    async def speech():
        yield b"hola"
        yield commands.Mark("end")

    received = []
    async for event in converse(server.url, FINALS, speech()):
        received.append(event)
        if isinstance(event, events.Mark) and not any(isinstance(e, events.Mark) for e in received[:-1]):
            cut_all(server)

    assert texts(received) == ["hola", "en:HOLA"]
    assert isinstance(received[-1], events.Done)


async def test_compressed_audio_comes_back_too():
    class Recorder(SpellingEncoder):
        heard = bytearray()

        def steps(self, data):
            self.heard.extend(data)
            return super().steps(b"")

    encoding, data = FILES["webm"]
    async with running(encoders=[EncoderWorker(lambda: loaded(Recorder))]) as server:

        async def speech():
            for start in range(0, len(data), 2_000):
                yield data[start : start + 2_000]
                if start == 6_000:
                    cut_all(server)

        start = commands.Start(audio=AudioFormat(encoding))
        received = [event async for event in converse(server.url, start, speech())]

    assert sum(isinstance(event, events.Ready) for event in received) == 2
    assert bytes(Recorder.heard) == to_s16le(decode(encoding, data))


async def test_a_server_that_does_not_come_back_is_an_error():
    async with running() as server:
        conversing = converse(server.url, FINALS, frames(b"ho"), patience=0.2)
        await anext(conversing)
        server.listener.close(close_connections=False)
        cut_all(server)
        with pytest.raises(StreamError, match="could not be had again") as caught:
            async for _ in conversing:
                pass

    assert caught.value.code == "connection_lost"


async def test_a_gateway_that_dies_before_it_is_ready_leaves_the_start_to_the_next(server):
    async def dies(connection):
        await connection.recv()
        connection.transport.abort()

    async with serve(dies, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as dying:
        dead = f"ws://127.0.0.1:{dying.sockets[0].getsockname()[1]}/v1/stream"

        assert texts(await conversation([dead, server.url], FINALS, b"hola.")) == ["hola", "en:HOLA"]
        with pytest.raises(StreamError, match="close code 1006") as caught:
            await conversation([dead, dead], FINALS, b"hola.")

    assert caught.value.code == "connection_lost"


async def test_a_stream_that_somebody_else_took_is_an_error(server):
    conversing = converse(server.url, FINALS, endless())
    ready = await anext(conversing)
    resume = {"stream_id": ready.stream_id, "token": ready.token}
    async with client(server.url, {"type": "start", "resume": resume}):
        with pytest.raises(StreamError, match="close code 4409"):
            async for _ in conversing:
                pass


async def endless():
    while True:
        yield b"ho"
        await asyncio.sleep(0.01)


async def test_leaving_ends_the_stream(server):
    conversing = converse(server.url, FINALS, endless())
    ready = await anext(conversing)
    await conversing.aclose()
    stream = server.gateway.registry.get(ready.stream_id)

    async def ended():
        return stream.log.closed

    await eventually(ended)


async def test_what_goes_wrong_with_speech_is_raised(server):
    async def failing():
        yield b"ho"
        raise AudioError("the microphone was pulled out")

    with pytest.raises(AudioError, match="pulled out"):
        async for _ in converse(server.url, FINALS, failing()):
            pass


async def test_a_fatal_error_has_its_code(server):
    with pytest.raises(StreamError, match="does not know 'xx'") as caught:
        await conversation(server.url, commands.Start(targets=("xx",)))

    assert caught.value.code == "unknown_language"


@pytest.mark.parametrize("url", ["ws://127.0.0.1:9/v1/stream", "nonsense"])
async def test_no_server_is_an_error(url):
    with pytest.raises(StreamError, match=f"no Surtitle server answers at {url}"):
        await conversation(url, FINALS)


@settings(deadline=None, max_examples=100)
@given(
    pieces=st.lists(st.binary(max_size=9), max_size=12), acknowledged=st.floats(0, 1), more=st.floats(0, 1)
)
async def test_what_is_kept_is_what_was_not_acknowledged(pieces, acknowledged, more):
    """After an acknowledgement, all audio from any later position can be said again."""

    class Sink:
        def __init__(self):
            self.data = b""

        async def send(self, item):
            self.data += item if isinstance(item, bytes) else b""

    whole = b"".join(pieces)
    speech = _Speech(frames(*pieces), AudioFormat())
    first = Sink()
    await speech.send(first, 0)
    done = int(acknowledged * len(whole)) // 2 * 2
    speech.acknowledge(done / 32_000)
    again = Sink()
    position = done + int(more * (len(whole) - done))
    await speech.send(again, position)

    assert first.data == whole
    assert again.data == whole[position:]


def test_the_client_needs_nothing_of_the_server():
    program = "import sys, workers.client; sys.exit(any(m in sys.modules for m in ('torch', 'ray', 'numba')))"

    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


async def test_the_example_of_the_page(server, capsys):
    page = (ROOT / "docs/clients.md").read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "clients.md", "exec"), names)

    await names["captions"](frames(b"hola..", b"ad", b"io"), server.url)

    assert capsys.readouterr().out == "en:HOLA\nen:\nen:ADIO\n"
