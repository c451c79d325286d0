"""What a client says reaches its stream in order, and ends it where it must."""

from __future__ import annotations

from types import SimpleNamespace

from pipeline.wire import commands
from pipeline.wire.protocol import Limits
from workers.dialects.base import Reply
from workers.dialects.native import Native
from workers.incoming import Incoming


class Line:
    """A connection that brings what it is given, and then nothing for ever."""

    def __init__(self, *messages):
        self.messages = list(messages)

    async def recv(self):
        if not self.messages:
            raise ConnectionResetError
        return self.messages.pop(0)


class Notebook:
    """A stream that writes down what it is told."""

    def __init__(self, audio_received=0.0):
        self.told, self.audio_received = [], audio_received

    async def feed(self, data, epoch):
        self.told.append((data, epoch))

    def command(self, command):
        self.told.append(command)

    def refuse(self, error):
        self.told.append(error.code)


async def carry(stream, *messages, steps=(), **limits):
    paced, replies, ends = [], [], []

    async def pace(size):
        paced.append(size)

    async def reply(text):
        replies.append(text)

    dialect = Native(Limits())
    dialect.receive('{"type": "start"}')
    incoming = Incoming(
        Line(*messages),
        dialect,
        stream,
        7,
        limits=Limits(**limits),
        pace=pace,
        reply=reply,
        end=lambda error: ends.append(error.code),
    )
    try:
        await incoming.run(steps)
    except ConnectionResetError:
        ends.append(None)
    return SimpleNamespace(paced=paced, replies=replies, ends=ends)


async def test_everything_in_its_order():
    stream = Notebook()
    steps = (Reply("hello"), b"first", commands.Start())
    seen = await carry(stream, b"ab", '{"type": "flush"}', "?", b"c", steps=steps)

    assert stream.told == [(b"first", 7), (b"ab", 7), commands.Flush(), "bad_message", (b"c", 7)]
    assert (seen.paced, seen.replies, seen.ends) == ([2, 17, 1, 1], ["hello"], [None])


async def test_a_message_beyond_the_limit_ends_the_stream():
    stream = Notebook()
    seen = await carry(stream, bytes(70_000), b"never")

    assert (stream.told, seen.ends) == ([], ["frame_too_large"])


async def test_a_stream_that_is_too_long_ends():
    stream = Notebook(audio_received=5.1)

    assert (await carry(stream, b"ab", b"never", stream_seconds=5)).ends == ["stream_too_long"]
    assert stream.told == [(b"ab", 7)]
