"""What RFC 6455 asks of a server, byte for byte, and that one who breaks it harms nobody else."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.wire.protocol import Limits
from tests.workers.conftest import client, emptied, eventually, running
from workers import gateway

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
START = b'{"type": "start", "partials": false}'

HANDSHAKE = (
    "GET /v1/stream HTTP/1.1",
    "Host: {host}",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: {key}",
    "Sec-WebSocket-Version: 13",
)


def frame(opcode, payload=b"", *, fin=True, reserved=0, mask=True, length=None, wide=None):
    """A frame as a client sends it, right or wrong."""
    length = len(payload) if length is None else length
    wide = wide or (7 if length < 126 else 16 if length < 65_536 else 64)
    head = bytes([fin << 7 | reserved << 4 | opcode])
    code = {7: length, 16: 126, 64: 127}[wide]
    head += bytes([mask << 7 | code])
    if wide > 7:
        head += struct.pack("!H" if wide == 16 else "!Q", length)
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


class Raw:
    """A TCP connection to the server."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, *pieces):
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def handshake(self, server, *, lines=HANDSHAKE, drop=(), extra=()):
        key = base64.b64encode(os.urandom(16)).decode()
        kept = [line for line in lines if not line.startswith(tuple(drop) or ("\0",))]
        text = "\r\n".join([*kept, *extra, "", ""]).format(host=server.address, key=key)
        await self.send(text.encode("latin-1"))
        return (await self.response()).split()[1]

    async def response(self):
        async with asyncio.timeout(10):
            try:
                return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            except asyncio.IncompleteReadError as error:
                return error.partial.decode("latin-1") or "HTTP/1.1 none\r\n"

    async def frame(self):
        """Opcode and payload of the server's next frame; None at the end."""
        async with asyncio.timeout(10):
            try:
                first, second = await self.reader.readexactly(2)
                assert not second & 0x80, "a server must not mask"
                length = second & 0x7F
                if length > 125:
                    length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
                return first & 0x0F, await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return None

    async def close_code(self):
        while (received := await self.frame()) is not None:
            opcode, payload = received
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big") if payload else 1005
        return 1006


@asynccontextmanager
async def dialled(server):
    host, port = server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def opened(server):
    async with dialled(server) as raw:
        assert await raw.handshake(server) == "101"
        yield raw


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, "101"),
        ({"drop": ["Sec-WebSocket-Key"]}, "400"),
        ({"drop": ["Sec-WebSocket-Key"], "extra": ["Sec-WebSocket-Key: short"]}, "400"),
        ({"drop": ["Sec-WebSocket-Version"]}, "400"),
        ({"drop": ["Sec-WebSocket-Version"], "extra": ["Sec-WebSocket-Version: 8"]}, "400"),
        ({"drop": ["Connection"]}, "426"),
        ({"drop": ["Upgrade"]}, "426"),
        ({"extra": ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]}, "400"),
        ({"extra": ["Content-Length: 5"]}, "none"),
        ({"extra": [f"X-{i}: y" for i in range(300)]}, "431"),
        ({"extra": [f"X: {'y' * 20_000}"]}, "431"),
        ({"lines": (f"GET /v1/stream?{'x' * 20_000} HTTP/1.1", *HANDSHAKE[1:])}, "414"),
        ({"lines": ("GET /v1/stream HTTP/2.0", *HANDSHAKE[1:])}, "none"),
        ({"lines": ("garbage",)}, "none"),
    ],
)  # fmt: skip
async def test_the_handshake(server, change, status):
    async with dialled(server) as raw:
        assert await raw.handshake(server, **change) == status


async def test_fragments_pings_and_masks_make_no_difference(server):
    """Sections 5.4 and 5.5: control frames may stand between the fragments of a message."""
    async with opened(server) as raw:
        await raw.send(
            frame(TEXT, START[:5], fin=False),
            frame(PING, b"there?"),
            frame(0, START[5:], fin=True),
            frame(BINARY, b"ho", fin=False),
            frame(0, b"", fin=False),
            frame(PONG, b"unasked"),
            frame(0, b"la", fin=True),
            frame(BINARY, b"..", wide=64),
            frame(TEXT, b'{"type": "stop"}'),
        )
        received = [await raw.frame()]
        while received[-1][0] != CLOSE:
            received.append(await raw.frame())

    assert (PONG, b"there?") in received
    assert any(b'"hola"' in payload for _, payload in received)
    assert received[-1][1][:2] == (1000).to_bytes(2, "big")


CODES = {
    **dict.fromkeys([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999], True),
    **dict.fromkeys([0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535], False),
}
"""Codes that a client may close with (section 7.4), and some that it may not."""

NOT_UTF8 = (
    *(b"\x80", b"\xc0\x80", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xc3"),
    *(b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xff"),
)
"""Lone, overlong, cut, of surrogates, beyond U+10FFFF."""


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        *(([frame(TEXT, START, reserved=bits)], 1002) for bits in range(1, 8)),
        *(([frame(opcode, b"x")], 1002) for opcode in (*range(3, 8), *range(11, 16))),
        *(([frame(TEXT, text)], 1007) for text in NOT_UTF8),
        *(
            ([frame(CLOSE, number.to_bytes(2, "big"))], number if good else 1002)
            for number, good in CODES.items()
        ),
        ([frame(CLOSE, b"\x03\xe8" + b"x" * 124)], 1002),
        ([frame(CLOSE, b"\x03\xe8" + b"x" * 123)], 1000),
        ([frame(PONG, b"x" * 126)], 1002),
        ([frame(CLOSE, b"\x03\xe8"), frame(PING, b"late"), frame(TEXT, START)], 1000),
        ([frame(TEXT, START, mask=False)], 1002),
        ([frame(TEXT, START, reserved=4)], 1002),
        ([frame(3, b"x")], 1002),
        ([frame(11, b"x")], 1002),
        ([frame(0, b"x")], 1002),
        ([frame(TEXT, b"x", fin=False), frame(TEXT, b"y")], 1002),
        ([frame(PING, b"x", fin=False)], 1002),
        ([frame(PING, b"x" * 126)], 1002),
        ([frame(TEXT, b"\xff\xfe")], 1007),
        ([frame(TEXT, b"\xc3", fin=False), frame(0, b"\x28")], 1007),
        ([frame(CLOSE, b"\x03")], 1002),
        ([frame(CLOSE, (1005).to_bytes(2, "big"))], 1002),
        ([frame(CLOSE, (999).to_bytes(2, "big"))], 1002),
        ([frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff")], 1007),
        ([frame(CLOSE)], 1005),
        ([frame(CLOSE, (1000).to_bytes(2, "big"))], 1000),
        ([frame(CLOSE, (4321).to_bytes(2, "big"))], 4321),
        ([frame(BINARY, b"", length=1 << 63, wide=64)], 1009),
        ([frame(BINARY, b"", length=(1 << 20) + 1, wide=64)], 1009),
        ([frame(BINARY, b"x" * 600_000, fin=False), frame(0, b"x" * 600_000)], 1009),
        ([frame(TEXT, b"", fin=False), *[frame(0, b"", fin=False)] * 5_000], 1009),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
async def test_who_breaks_the_rules_is_told_so_and_nobody_else(server, frames, code):
    async with client(server.url, {"type": "start"}) as other, opened(server) as raw:
        with suppress(ConnectionError):
            await raw.send(*frames)
        # Who is still sending when the server closes can be answered with a reset.
        assert await raw.close_code() in ((code, 1006) if code == 1009 else (code,))
        await other.send(b"hola.", b".", {"type": "stop"})
        assert (await other.rest())[-1]["type"] == "done"


async def test_pings_are_answered_whatever_their_size_and_number(server):
    """Section 5.5.2: with what was in them, or at least in the newest."""
    payloads = [b"", b"x", bytes(range(125)), *(b"%d" % number for number in range(10))]
    async with opened(server) as raw:
        for payload in payloads:
            await raw.send(frame(PING, payload))
            assert await raw.frame() == (PONG, payload)


@pytest.mark.parametrize("size", [1, 3, 64])
async def test_text_may_be_cut_anywhere(server, size):
    """Sections 5.4 and 5.6: between the bytes of a character, too."""
    message = '{"type": "start", "targets": ["en"], "resume": null, "x": "κόσμε 😀"}'.encode()
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    async with opened(server) as raw:
        for at, part in enumerate(parts):
            await raw.send(frame(0 if at else TEXT, part, fin=at == len(parts) - 1))
        opcode, payload = await raw.frame()

    assert opcode == TEXT
    assert json.loads(payload)["code"] in ("unknown_field", "bad_message")


async def test_a_handshake_byte_by_byte_is_cut_off(monkeypatch):
    """Slow loris: who takes his time to say what he wants holds a connection for so long and no longer."""
    monkeypatch.setattr(gateway, "START_SECONDS", 0.3)
    async with running() as server, dialled(server) as raw:
        await raw.send(b"GET /v1/stream HTTP/1.1\r\n")
        async with asyncio.timeout(5):
            while await raw.reader.read(1_000):
                pass


FRAMES = st.builds(
    frame,
    st.sampled_from([0, TEXT, TEXT, BINARY, BINARY, CLOSE, PING, PONG, 3, 15]),
    st.binary(max_size=200)
    | st.sampled_from([START, b'{"type": "stop"}', b'{"type": "flush"}', b"[]", b"hola. adios."]),
    fin=st.sampled_from([True, True, True, False]),
    reserved=st.sampled_from([0, 0, 0, 0, 0, 4]),
    mask=st.sampled_from([True, True, True, True, False]),
)


@settings(max_examples=60)
@given(pieces=st.lists(st.one_of(FRAMES, st.binary(max_size=200)), max_size=12), started=st.booleans())
def test_whatever_comes_every_connection_ends_and_nothing_stays_behind(pieces, started):
    async def run():
        async with running(limits=Limits(resume_seconds=0)) as server:
            tasks = len(asyncio.all_tasks())
            async with opened(server) as raw:
                with suppress(ConnectionError):
                    await raw.send(*([frame(TEXT, START)] if started else []), *pieces)
                    raw.writer.write_eof()
                await raw.close_code()
            await emptied([*server.encoders, *server.decoders])

            async def quiet():
                return len(asyncio.all_tasks()) <= tasks

            await eventually(quiet)
            async with client(server.url, {"type": "start"}, b"hola.", b".", {"type": "stop"}) as speaker:
                assert (await speaker.rest())[-1]["type"] == "done"

    asyncio.run(run())
