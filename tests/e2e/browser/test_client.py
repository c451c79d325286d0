"""surtitle.js and its helpers, in a real browser, against a server that writes down what it hears."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import asdict

import numpy as np
import pytest
import soxr

from pipeline.config import AudioFormat, ContextConfig
from tests.conftest import ROOT
from tests.e2e.browser.conftest import opened
from tests.workers.conftest import eventually, running
from tests.workers.doubles import SpellingDecoder, loaded
from workers.access.guard import Guard
from workers.decoder import DecoderWorker
from workers.ledger import Ledger

SAY = """async ({ pieces, options, pause = 5 }) => {
  const { Speaker } = await import("/pages/surtitle.js");
  const speaker = new Speaker(options);
  window.speaker = speaker;
  window.events = [];
  speaker.addEventListener("event", ({ detail }) => window.events.push(detail));
  const over = new Promise((resolve) =>
    speaker.addEventListener("state", () => speaker.over && resolve(speaker.state)));
  speaker.start();
  for (const piece of pieces) {
    if (piece.startsWith("mark ")) speaker.mark(piece.slice(5));
    else if (piece === "flush") speaker.flush();
    else speaker.send(new TextEncoder().encode(piece));
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
  speaker.stop();
  return [await over, window.events];
}"""


@pytest.fixture(name="site")
async def _site(page):
    """A server, and a page of it."""
    async with running() as server:
        await page.goto(server.http)
        yield server, page


def texts(events, kind):
    return [event["stable"] for event in events if event["type"] == kind and event["final"]]


def hang_up(server):
    """Break every connection as a network does: no goodbye."""
    for connection in list(server.listener.connections):
        connection.transport.abort()


def examples():
    return re.findall(r"^```js\n(.*?)^```$", (ROOT / "docs/clients.md").read_text("utf-8"), re.M | re.S)


async def test_the_examples_of_the_docs(browser):
    """In a page without a policy, as one of one's own may be."""
    speak, watch = examples()
    said = []
    async with running() as server, opened(browser) as page:
        page.on("console", lambda message: said.append(message.text) if message.type == "log" else None)
        await page.goto(server.http + "/healthz")
        await page.add_script_tag(type="module", content=speak)

        async def one():
            return len(said) == 1

        await eventually(one)
        (stream,) = server.gateway.registry._streams
        await page.add_script_tag(type="module", content=watch.replace("Jq2m8Zr1cW0vTn5x", stream))

        async def two():
            return len(said) == 2 + 1  # a text, and done, which has none

        await eventually(two)
    assert said[0].startswith("en en:\0")
    assert said[1] == f"{said[0].removeprefix('en ')} "


async def test_a_stream_from_start_to_done(site):
    _, page = site

    state, events = await page.evaluate(
        SAY, {"pieces": ["hola.", "mark here", "adi", "flush", "os."], "options": {"targets": ["en", "fr"]}}
    )

    assert state == "ended"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert texts(events, "transcript") == ["hola", "adi", "os"]
    assert texts(events, "translation") == ["en:HOLA", "fr:HOLA", "en:ADI", "fr:ADI", "en:OS", "fr:OS"]
    marks = [event["id"] for event in events if event["type"] == "mark"]
    assert marks == ["here"]
    assert events[-1]["type"] == "done"


async def test_audio_is_counted_by_its_format(site):
    _, page = site
    formats = [AudioFormat("alaw", 8_000, 2), AudioFormat("mulaw", 8_000), AudioFormat("pcm_f32le", 48_000)]
    for audio in formats:
        seconds = await page.evaluate(
            """async ({ audio, bytes }) => {
              const { Speaker } = await import("/pages/surtitle.js");
              const speaker = new Speaker({ audio });
              speaker.send(new Uint8Array(bytes));
              return speaker.seconds;
            }""",
            {"audio": asdict(audio), "bytes": 3 * audio.sample_rate * audio.bytes_per_frame},
        )
        assert seconds == 3


async def test_what_is_known_of_the_talk_goes_along(page):
    told = []

    class Noting(SpellingDecoder):
        def __init__(self, config):
            told.append((config.context, config.glossary))
            super().__init__(config)

        def update(self, *, context, glossary, **settings):
            told.append((context, glossary))
            super().update(context=context, glossary=glossary, **settings)

    known = {"context": {"text": "Ana"}, "glossary": ["Belén", {"es": "coche", "en": "car"}]}
    async with running(decoders=[DecoderWorker(lambda: loaded(Noting))]) as server:
        await page.goto(server.http)
        talking = asyncio.create_task(
            page.evaluate(SAY, {"pieces": ["hola."] * 9, "options": known, "pause": 50})
        )

        async def started():
            return await page.evaluate("window.speaker?.ready != null")

        await eventually(started)
        await page.evaluate("speaker.update({ glossary: [] })")
        state, _ = await talking

    assert state == "ended"
    assert told == [
        (ContextConfig("Ana"), ("Belén", {"es": "coche", "en": "car"})),
        (None, ()),
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_breaks_lose_and_double_nothing(site, seed):
    server, page = site
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(60)]
    said = ".".join(words) + "."
    cuts = sorted(rng.sample(range(len(said)), 40))
    pieces = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]
    for place in range(5, 40, 7):
        pieces.insert(place, f"mark {place}")
    talking = asyncio.create_task(page.evaluate(SAY, {"pieces": pieces, "options": {}, "pause": 40}))

    async def started():
        return await page.evaluate("window.speaker?.ready != null")

    await eventually(started)
    breaks = 0
    while not talking.done():
        await asyncio.wait([talking], timeout=rng.uniform(0.02, 0.3))
        if breaks < 8:
            breaks += bool(server.listener.connections)
            hang_up(server)

    state, events = await talking

    assert breaks >= 3
    assert state == "ended"
    assert [event["seq"] for event in events if event["type"] != "mark"] == sorted(
        {event["seq"] for event in events if event["type"] != "mark"}
    )
    assert texts(events, "transcript") == words
    assert texts(events, "translation") == [f"en:{word.upper()}" for word in words]
    assert [e["id"] for e in events if e["type"] == "mark"] == [str(place) for place in range(5, 40, 7)]
    assert await page.evaluate("speaker.pending") < len(said) / 32_000 + 1e-9


async def test_a_speaker_goes_on_at_another_gateway(browser):
    """The first address is dead, the second one's gateway ends in mid-stream."""
    words = ["uno", "dos", "tres", "cuatro", "cinco", "seis"] * 8
    ledger = Ledger()
    async with running(ledger=ledger) as second, opened(browser) as page:
        await page.goto(second.http + "/healthz")
        async with running(ledger=ledger, guard=Guard(origins=[second.http])) as first:
            urls = ["ws://127.0.0.1:9/v1/stream", first.url, second.url]
            pieces = [f"{word}." for word in words]
            asked = {"pieces": pieces, "options": {"url": urls}, "pause": 60}
            talking = asyncio.create_task(page.evaluate(SAY, asked))

            async def halfway():
                return await page.evaluate("(window.events ?? []).filter((event) => event.final).length > 5")

            await eventually(halfway)
        state, events = await talking

    assert state == "ended"
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))  # without those of its own probes
    assert texts(events, "transcript") == words
    assert sum(event["type"] == "ready" for event in events) == 2
    assert second.metrics.registry.get_sample_value("surtitle_streams_taken_over_total") == 1


@pytest.mark.parametrize(
    ("encoding", "acknowledged", "received"), [("pcm_s16le", 1 / 16_000, 2 / 16_000), ("opus", 1.0, 2.0)]
)
async def test_audio_is_sent_once_though_the_position_is_told_twice(site, encoding, acknowledged, received):
    """As after a connection that broke before its ready had come; the socket is one that the test plays.

    Of compressed audio nobody knows which of its bytes an ack means.
    """
    _, page = site

    sent = await page.evaluate(
        """async ({ encoding, acknowledged, received }) => {
      const sockets = [];
      window.WebSocket = class {
        constructor() {
          this.sent = [];
          this.bufferedAmount = 0;
          sockets.push(this);
        }
        send(data) {
          this.sent.push(typeof data === "string" ? JSON.parse(data) : [...data]);
        }
        close() {}
        tell(event) {
          const common = { stream_id: "s", limits: { resume_seconds: 60 } };
          this.onmessage({ data: JSON.stringify({ ...common, ...event }) });
        }
      };
      const { Speaker } = await import("/pages/surtitle.js");
      const speaker = new Speaker({ audio: { encoding } }).start();
      sockets[0].onopen();
      sockets[0].tell({ type: "ready", seq: 1, token: "t", audio_received: 0, bytes_received: 0 });
      speaker.send(new Uint8Array([1, 2, 3, 4, 5, 6]));
      speaker.flush();
      speaker.send(new Uint8Array([7, 8]));
      sockets[0].tell({ type: "ack", seq: 2, audio_time: acknowledged });
      sockets[0].onclose({ code: 1006 });
      while (sockets.length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
      sockets[1].onopen();
      sockets[1].tell({ type: "ready", seq: 3, token: "t", audio_received: received, bytes_received: 4 });
      speaker.send(new Uint8Array([9, 10]));
      sockets[1].tell({ type: "ready", seq: 4, token: "t", audio_received: received, bytes_received: 4 });
      return sockets.map((socket) => socket.sent);
    }""",
        {"encoding": encoding, "acknowledged": acknowledged, "received": received},
    )

    start, *first = sent[0]
    resume, *second = sent[1]
    assert start["type"] == "start"
    assert first == [[1, 2, 3, 4, 5, 6], {"type": "flush"}, [7, 8]]
    assert resume == {"type": "start", "resume": {"stream_id": "s", "token": "t", "after_seq": 2}}
    assert second == [[5, 6], {"type": "flush"}, [7, 8], [9, 10]]


async def test_a_refusal_is_told_and_not_tried_again(site):
    _, page = site

    problem = await page.evaluate("""async () => {
      const { Speaker } = await import("/pages/surtitle.js");
      const speaker = new Speaker({ targets: ["xx"] });
      const told = new Promise((resolve) => speaker.addEventListener("problem", (e) => resolve(e.detail)));
      speaker.start();
      const problem = await told;
      return [problem.code, speaker.state];
    }""")

    assert problem == ["unknown_language", "failed"]


WATCH = """async ({ stream, target }) => {
  const { Watcher } = await import("/pages/surtitle.js");
  const watcher = new Watcher({ stream, target });
  const events = (window[target] = []);
  watcher.addEventListener("event", ({ detail }) => events.push(detail));
  watcher.addEventListener("problem", ({ detail }) => events.push(detail));
  watcher.start();
  await new Promise((resolve) =>
    watcher.addEventListener("state", () => watcher.over && resolve(watcher.state)));
  return events;
}"""


async def test_watchers_come_late_and_come_back(site):
    server, page = site
    pieces = [f"{word}." for word in ("uno", "dos", "tres", "cuatro", "cinco", "seis")] * 13
    talking = asyncio.create_task(page.evaluate(SAY, {"pieces": pieces, "options": {}}))

    async def some():
        return await page.evaluate("(window.events ?? []).filter((e) => e.final).length > 20")

    await eventually(some)
    stream = await page.evaluate("events[0].stream_id")
    watching = [
        asyncio.create_task(page.evaluate(WATCH, {"stream": stream, "target": target}))
        for target in ("en", "es")
    ]

    async def seen():
        return await page.evaluate("(window.en ?? []).length > 2 && (window.es ?? []).length > 2")

    await eventually(seen)
    hang_up(server)
    _, events = await talking
    english, spanish = await asyncio.gather(*watching)

    assert texts(english, "translation") == texts(events, "translation")
    assert texts(spanish, "transcript") == texts(events, "transcript")
    assert len({event["seq"] for event in english}) == len(english)
    assert english[-1]["type"] == "done"


@pytest.mark.parametrize(
    ("stream", "target", "code"), [("none", "en", "unknown_stream"), (None, "xx", "unknown_language")]
)
async def test_watching_what_is_not_there_fails(site, stream, target, code):
    _, page = site
    _, events = await page.evaluate(SAY, {"pieces": ["a."], "options": {}})

    watched = {"stream": stream or events[0]["stream_id"], "target": target}
    assert [told["code"] for told in await page.evaluate(WATCH, watched)] == [code]


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
async def test_resampling(site, rate):
    """What is in the band stays, whatever the pieces; what is above is gone. soxr judges."""
    _, page = site
    rng = np.random.default_rng(rate)
    noise = rng.normal(size=rate).astype(np.float32) * 0.1
    sizes = rng.integers(1, 700, 400)
    made = await page.evaluate(
        """async ({ rate, samples, sizes }) => {
          const { Resampler } = await import("/pages/resampler.js");
          const resampler = new Resampler(rate, 16000);
          const made = [];
          let at = 0;
          for (const size of sizes) {
            made.push(...resampler.push(new Float32Array(samples.slice(at, at + size))));
            at += size;
          }
          made.push(...resampler.push(new Float32Array(samples.slice(at))), ...resampler.flush());
          return made;
        }""",
        {"rate": rate, "samples": noise.tolist(), "sizes": sizes.tolist()},
    )
    expected = soxr.resample(noise, rate, 16_000, quality="VHQ")

    assert len(made) == 16_000
    window = np.hanning(16_000)
    error, power = np.fft.rfft((made - expected) * window), np.fft.rfft(expected * window)
    band = slice(0, int(len(power) * min(1.0, rate / 16_000) * 0.83))
    assert np.linalg.norm(error[band]) < 0.002 * np.linalg.norm(power[band])
    if rate > 16_000:
        tone = np.sin(2 * np.pi * 9_500 * np.arange(rate) / rate)
        left = await page.evaluate(
            """async ({ rate, samples }) => {
              const { Resampler } = await import("/pages/resampler.js");
              return [...new Resampler(rate, 16000).push(new Float32Array(samples))].slice(1000);
            }""",
            {"rate": rate, "samples": tone.tolist()},
        )
        assert np.abs(left).max() < 1e-3
