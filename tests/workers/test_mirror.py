"""A stream of another gateway is seen here as it is there, to its end."""

from __future__ import annotations

import asyncio

from pipeline.config import StreamConfig
from pipeline.wire.events import Done, Sequencer, Translation, encode
from tests.workers.conftest import eventually, keeping
from workers.eventlog import EventLog
from workers.ledger import Ledger, Line, Write
from workers.metrics import Metrics
from workers.mirror import follow, mirror, settings_of, title_of
from workers.published import Published

CONFIG = StreamConfig(source="es", targets=("en",))


def lines(*stamped):
    return tuple(Line(event.seq, encode(event), getattr(event, "final", False)) for event in stamped)


def test_settings_come_back_as_they_were_written():
    stream = Published("s", CONFIG, "hall", EventLog(), ("zoom",))
    stream.targets = ("de",)
    title = title_of(stream, "token", 9.0)

    assert (title.tenant, title.token, title.seconds) == ("hall", "token", 9.0)
    assert settings_of(title) == (CONFIG, ("de",), ("zoom",))


async def test_a_mirror_follows_to_the_end_and_ends_when_the_stream_is_forgotten():
    ledger, stamp = Ledger(), Sequencer("s").stamp
    text = Translation(
        utterance=0, start=0.0, end=1.0, stable="hi", tentative="", target="en", final=True, audio_time=1.5
    )
    first, second, done = stamp(text), stamp(text), stamp(Done())
    title = title_of(Published("s", CONFIG, "hall", EventLog()), "token", 9.0)
    await ledger.write([Write("s", 1, lines(first), title, whole=True), Write("t", 1, (), title, whole=True)])
    async with keeping(ledger, Metrics()) as keeper:
        stream = mirror(await keeper.read("s", 0))
        forgotten = mirror(await keeper.read("t", 0))
        following = [asyncio.create_task(follow(one, keeper)) for one in (stream, forgotten)]
        assert (stream.tenant, stream.log.last_seq, stream.audio_time) == ("hall", 1, 1.5)
        await ledger.write([Write("s", 1, lines(second))])

        async def came():
            return stream.log.last_seq == 2

        await eventually(came)
        await ledger.write([Write("s", 1, lines(done), closed=True)])
        ledger._expire = lambda: ledger._volumes.pop("t", None)
        await asyncio.gather(*following)

    assert [entry.event for entry in stream.log.kept(0)] == [first, second, done]
    assert stream.finals("en") == [first, second]
    assert stream.log.closed
    assert forgotten.log.closed
