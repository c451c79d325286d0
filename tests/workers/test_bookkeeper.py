"""Gateways share a ledger: a stream goes on on any, is seen on all, and runs on without the ledger."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager

import httpx2

from pipeline.config import StreamConfig
from pipeline.wire import commands, events
from tests.workers.conftest import client, eventually, finals, keeping, running
from tests.workers.doubles import listening, loaded
from workers.client import converse
from workers.decoder import DecoderWorker
from workers.eventlog import EventLog
from workers.ledger import Ledger
from workers.metrics import Metrics
from workers.mirror import title_of
from workers.protocols import WorkerLostError
from workers.published import Published

START = {"type": "start"}
STOP = {"type": "stop"}


@asynccontextmanager
async def two(ledger=None, **options):
    ledger = ledger or Ledger()
    async with running(ledger=ledger, **options) as first, running(ledger=ledger, **options) as second:
        yield first, second


def resume(ready, after_seq):
    where = {"stream_id": ready["stream_id"], "token": ready["token"], "after_seq": after_seq}
    return {"type": "start", "resume": where}


def stable_grows(received):
    """Whether stable text is never taken back, and no final comes twice."""
    stable, final = {}, set()
    for event in received:
        if event["type"] in ("transcript", "translation"):
            key = (event["utterance"], event.get("target"))
            if key in final or not event["stable"].startswith(stable.get(key, "")):
                return False
            stable[key] = event["stable"]
            if event["final"]:
                final.add(key)
    return True


async def test_a_language_that_has_been_told_stays_on_another_gateway():
    listener = listening("es", "en")
    workers = {"decoders": [DecoderWorker(lambda: loaded(listener))]}
    async with running(ledger=(ledger := Ledger()), **workers) as first, client(first.url, START) as speaker:
        await speaker.send(b"ho", {"type": "mark", "id": "said"})
        received = await speaker.until("mark")
        workers = {"decoders": [DecoderWorker(lambda: loaded(listener))]}
        async with (
            running(ledger=ledger, **workers) as second,
            client(second.url, resume(received[0], received[-1]["seq"])) as returned,
        ):
            await returned.until("ready")
            await returned.send(b"hola.adios.", STOP)
            received += await returned.rest()

    heard = [event for event in received if event["type"] == "transcript"]
    assert {event["language"] for event in heard if event["utterance"] == 0} == {"es"}
    assert finals(heard)[0] == ("transcript", 0, "hola")


async def test_a_stream_goes_on_on_another_gateway_from_the_last_point():
    """The first one still believes that it has the stream; from the claim on it says nothing more."""
    async with two() as (first, second), client(first.url, START) as speaker:
        received = await speaker.until("ready")
        for word in (b"uno.", b"dos.", b"tr"):
            await speaker.send(word, {"type": "mark", "id": "said"})
            received += await speaker.until("mark")
        async with client(second.url, resume(received[0], received[-1]["seq"])) as returned:
            (ready,) = await returned.until("ready")
            assert ready["bytes_received"] == 8  # behind "dos.": what was said since has to come again
            await returned.send(b"tres.cuatro.", STOP)
            rest = await returned.rest()
        behind = await speaker.rest()

    assert speaker.closed_with == 4409
    assert behind == []
    received += [ready, *rest]
    assert [event["seq"] for event in received] == list(range(1, len(received) + 1))
    assert finals(received) == [
        (kind, utterance, text)
        for utterance, word in enumerate(("uno", "dos", "tres", "cuatro"))
        for kind, text in (("transcript", word), ("translation", f"en:{word.upper()}"))
    ]
    assert stable_grows(received)
    assert returned.closed_with == 1000
    assert second.metrics.registry.get_sample_value("surtitle_streams_taken_over_total") == 1


async def test_a_stream_can_go_to_and_fro():
    ledger = Ledger()
    async with two(ledger) as servers:
        async with client(servers[0].url, START) as speaker:
            received = [await speaker.receive()]
        # ... which has left for good: the stream ends, and its end is to be had anywhere.

        async def over():
            return (await ledger.read(received[0]["stream_id"], 0, 0.0)).closed

        await eventually(over)
        async with client(servers[1].url, resume(received[0], 1)) as returned:
            rest = await returned.rest()
        assert (rest[-1]["type"], returned.closed_with) == ("done", 1000)

        text, said = b"a.bc.def.ghij.klmno.p.", 2
        async with client(servers[0].url, START, text[:3]) as speaker:
            received = await speaker.until("translation")
            speaker.connection.transport.abort()
        for turn in range(1, 6):
            async with client(servers[turn % 2].url, resume(received[0], received[-1]["seq"])) as speaker:
                received += await speaker.until("ready")
                said += 4
                await speaker.send(text[received[-1]["bytes_received"] : said], {"type": "mark", "id": "m"})
                received += await speaker.until("mark")
                speaker.connection.transport.abort()
        async with client(servers[0].url, resume(received[0], received[-1]["seq"])) as speaker:
            received += await speaker.until("ready")
            await speaker.send(text[received[-1]["bytes_received"] :], STOP)
            received += await speaker.rest()

    assert [event["seq"] for event in received] == list(range(1, len(received) + 1))
    spoken = [text for kind, _, text in finals(received) if kind == "transcript"]
    assert spoken == ["a", "bc", "def", "ghij", "klmno", "p"]
    assert stable_grows(received)


async def test_only_its_owner_takes_a_stream_over():
    async with two() as (first, second), client(first.url, START, b"hola..") as speaker:
        received = await speaker.until("translation")
        stolen = {**received[0], "token": "x" * 32}
        async with client(second.url, resume(stolen, 1)) as thief:
            (error,) = await thief.rest()
        assert error["code"] == "unknown_stream"
        await speaker.send(b"adios.", STOP)
        assert ("transcript", 2, "adios") in finals(await speaker.rest())


async def test_viewers_see_everything_once_on_a_gateway_that_does_not_have_the_stream():
    async with two() as (first, second):
        async with client(first.url, START, b"uno.") as speaker:
            received = await speaker.until("translation")
            stream = received[0]["stream_id"]
            address = f"ws://{second.address}/v1/streams/{stream}/captions?target=en"
            async with client(address) as viewer:
                seen = [await viewer.receive()]
                await speaker.send(b"dos.")
                seen.append(await viewer.receive())
                # The stream moves to the viewer's gateway while he looks on.
                received += await speaker.until("translation")
                async with client(second.url, resume(received[0], received[-1]["seq"])) as returned:
                    await returned.until("ready")
                    await returned.send(b"tres.", STOP)
                    await returned.rest()
                seen += await viewer.rest()
        async with httpx2.AsyncClient() as http:

            async def ended():
                return (await http.get(f"{first.http}/v1/streams/{stream}")).json()["ended"]

            await eventually(ended)
            files = [await http.get(f"{s.http}/v1/streams/{stream}.txt") for s in (first, second)]

    assert finals(seen) == [
        ("translation", n, text) for n, text in enumerate(("en:UNO", "en:DOS", "en:TRES"))
    ]
    assert seen[-1]["type"] == "done"
    assert [file.text for file in files] == ["en:UNO\nen:DOS\nen:TRES\n"] * 2


class Lame(Ledger):
    """A ledger that can be away, hang, or lose everything."""

    def __init__(self):
        super().__init__()
        self.fault = None
        self.well = asyncio.Event()

    async def write(self, batch):
        if self.fault == "away":
            raise WorkerLostError("it is away")
        if self.fault == "hangs":
            await self.well.wait()
        return await super().write(batch)

    def forget(self):
        self._volumes.clear()


async def test_streams_run_on_without_the_ledger_and_are_written_again_when_it_is_back():
    ledger = Lame()

    def up(server):
        return server.metrics.registry.get_sample_value("surtitle_ledger_up")

    async with two(ledger) as (first, second):
        async with client(first.url, START, b"uno.") as speaker:
            received = await speaker.until("translation")
            for fault, word in (("away", b"dos."), ("hangs", b"six.")):
                ledger.fault = fault
                ledger.well.clear()
                await speaker.send(word)
                received += await speaker.until("translation")
                assert up(first) == 0
                ledger.forget()
                ledger.fault = None
                ledger.well.set()

                async def back():
                    return up(first) == 1

                await eventually(back)
            await speaker.send(b"cu")
            received += await speaker.until("transcript")
            speaker.connection.transport.abort()

        async def written():
            record = await ledger.read(received[0]["stream_id"], 0, 0.0)
            return record is not None and record.lines[-1].seq >= received[-1]["seq"]

        await eventually(written)
        async with client(second.url, resume(received[0], received[-1]["seq"])) as speaker:
            received += await speaker.until("ready")
            await speaker.send(b"uno.dos.six.cuatro.."[received[-1]["bytes_received"] :], STOP)
            received += await speaker.rest()

    assert [event["seq"] for event in received] == list(range(1, len(received) + 1))
    assert [t for kind, _, t in finals(received) if kind == "transcript"] == [
        "uno",
        "dos",
        "six",
        "cuatro",
        "",
    ]


async def test_who_is_to_end_hands_its_streams_over():
    """No error event, close code 1012; the client library finds the other gateway and misses nothing."""
    ledger, words = Ledger(), [b"uno.", b"dos ", b"y me", b"dia.", b"tres."]
    ended, seen = asyncio.Event(), []

    async def said():
        for word in words[:3]:
            yield word
        await ended.wait()
        for word in words[3:]:
            yield word

    async with running(ledger=ledger) as second:
        async with running(ledger=ledger) as first:
            urls = [first.url, second.url]

            async def speak():
                async for event in converse(urls, commands.Start(), said()):
                    seen.append(event)

            speaking = asyncio.create_task(speak())

            async def halfway():
                return any(getattr(event, "stable", "") == "dos y me" for event in seen)

            await eventually(halfway)
        ended.set()
        async with asyncio.timeout(20):
            await speaking

    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    texts = [e.stable for e in seen if isinstance(e, events.Transcript) and e.final]
    assert texts == ["uno", "dos y media", "tres"]
    assert not any(isinstance(event, events.Error) for event in seen)


async def test_any_order_of_breaks_and_moves_comes_to_the_same():
    rng = random.Random(random.randrange(1 << 32))
    text = b"".join(bytes(rng.choices(b"abcdef", k=rng.randint(1, 9))) + b"." for _ in range(30))
    async with two() as servers:
        received, ready = [], None
        while not received or received[-1]["type"] != "done":
            hello = START if ready is None else resume(ready, received[-1]["seq"] if received else 0)
            async with client(rng.choice(servers).url, hello) as speaker:
                received += await speaker.until("ready")
                ready = received[-1]
                at = ready["bytes_received"]
                size = rng.randint(2, 60)
                if at + size >= len(text):
                    await speaker.send(text[at:], STOP)
                    received += await speaker.rest()
                    continue
                await speaker.send(text[at : at + size], {"type": "mark", "id": "said"})
                for _ in range(rng.randint(0, 20)):
                    received.append(await speaker.receive())
                    if received[-1]["type"] == "mark":
                        break
                speaker.connection.transport.abort()

    assert [event["seq"] for event in received] == list(range(1, len(received) + 1)), json.dumps(received)
    spoken = "".join(f"{t}." for kind, _, t in finals(received) if kind == "transcript")
    assert spoken == text.decode()
    assert stable_grows(received)


async def test_who_waits_until_all_is_written_does_not_wait_for_what_comes_later():
    stream = Published("s", StreamConfig(), "hall", EventLog(held=True))
    stamp = events.Sequencer("s").stamp
    ledger = Ledger()
    async with keeping(ledger, Metrics()) as keeper:
        book = keeper.open(stream, lambda: title_of(stream, "token", 9.0), lambda: None)
        written = asyncio.create_task(keeper.settle(book))
        async with asyncio.timeout(10):
            while not written.done():  # there is always something new
                book.append(stamp(events.Mark(id="busy")))
                await asyncio.sleep(0)
            await written
            book.append(stamp(events.Mark(id="last")))
            await keeper.settle(book)
        assert (await ledger.read("s", 0, 0.0)).lines[-1].seq == stream.log.last_seq
        assert not stream.log.unseen()
