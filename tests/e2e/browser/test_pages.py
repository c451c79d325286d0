"""The pages as people use them: speech into the operator's, subtitles out of the viewers'.

With the environment variable ``SCREENSHOTS`` set to a folder, pictures for the docs are left there.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import urllib.request
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import pytest
import soundfile

from pipeline import Gemma3n, Stream
from tests.conftest import ROOT
from tests.e2e.browser.conftest import RECORDING, opened
from tests.workers.conftest import eventually, running
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.loading import load_decoder, load_encoder

NANO = str(ROOT / "pipeline/nano")
FOLDER = os.environ.get("SCREENSHOTS")


@asynccontextmanager
async def translating(**options):
    """A server with the bundled model, in this process, so that the test can break its connections."""
    encoder = EncoderWorker(partial(load_encoder, NANO, "cpu", "float32"))
    decoder = DecoderWorker(partial(load_decoder, NANO, "cpu", "float32"))
    about = {"model": "nano", "languages": ("es", "en")}
    async with running(encoders=[encoder], decoders=[decoder], **about, **options) as server:
        yield server


async def photograph(page, name):
    if FOLDER:
        await page.screenshot(path=f"{FOLDER}/{name}.png")


async def fetch(server, path):
    def request():
        with urllib.request.urlopen(server.http + path, timeout=10) as response:
            return response.read().decode()

    return await asyncio.to_thread(request)


async def until(page, condition, seconds=60):
    async def holds():
        return await page.evaluate(condition)

    return await eventually(holds, seconds)


# What the microphone gave, as the page had it before the network did.
TAP = """window.heard = [];
const Node = window.AudioWorkletNode;
window.AudioWorkletNode = class extends Node {
  constructor(...options) {
    super(...options);
    this.port.addEventListener("message", ({ data }) => {
      if (data.pcm) window.heard.push(...new Uint8Array(data.pcm));
    });
  }
};"""

# Every sentence that a screen reader is given, and every change to text that was stable.
RECORD = """window.announced = [];
window.touched = [];
document.addEventListener("DOMContentLoaded", () => {
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) for (const node of addedNodes) announced.push(node.textContent);
  }).observe(document.getElementById("announced"), { childList: true });
  new MutationObserver((changes) => {
    for (const { target, removedNodes } of changes) {
      if (target.parentElement?.closest(".stable")) touched.push(target.textContent);
      for (const node of removedNodes) if (node.className === "stable") touched.push(node.textContent);
    }
  }).observe(document.getElementById("text"), { childList: true, characterData: true, subtree: true });
});"""

SHOWN = """[...document.querySelectorAll("#text p")].map((p) => p.textContent)"""


async def test_speech_reaches_the_screens_through_a_broken_network(browser):
    """The main job, with connections lost while somebody speaks: all text is that of an undisturbed run."""
    async with (
        translating() as server,
        opened(browser, viewport={"width": 1280, "height": 860}) as operator,
        opened(browser, viewport={"width": 1280, "height": 720}) as screen,
        opened(browser, viewport={"width": 1280, "height": 720}) as overlay,
        opened(browser, viewport={"width": 390, "height": 780}, color_scheme="dark") as phone,
    ):
        await operator.add_init_script(TAP)
        await screen.add_init_script(RECORD)
        await operator.goto(server.http)
        await operator.select_option("#source", "es")
        await operator.click("#start")
        await operator.wait_for_selector("#out:not([hidden])")
        await screen.goto(await operator.get_attribute("#watch", "href"))
        await overlay.goto(await operator.get_attribute("#overlay", "href") + "&size=7vh")
        await until(operator, "document.getElementById('gate').dataset.open === 'true'")
        await until(operator, "document.querySelector('.pane .tentative, .pane .stable')")
        for connection in list(server.listener.connections):
            connection.transport.abort()
        await until(operator, "document.body.dataset.state === 'reconnecting'")
        await until(operator, "document.body.dataset.state === 'open'")
        await until(screen, "document.body.dataset.state === 'open'")
        await until(screen, "document.querySelectorAll('#text p').length >= 2")
        cues = await overlay.evaluate_handle("""() => {
            const lines = [];
            const cue = document.getElementById("cue");
            const rows = () => [...cue.children].map((row) => row.innerText);
            new MutationObserver(() => lines.push(rows())).observe(cue, { childList: true });
            return lines;
        }""")
        await until(operator, "document.querySelectorAll('#texts > section:last-child .pane p').length >= 3")
        await phone.goto(await operator.get_attribute("#watch", "href") + "&theme=dark")
        await until(phone, "document.querySelector('#text .stable')")
        await until(overlay, "document.querySelector('#cue span')")
        # First the overlay, whose cue does not stay.
        for page, name in (
            (overlay, "overlay"),
            (operator, "operator"),
            (screen, "viewer"),
            (phone, "viewer-phone"),
        ):
            await photograph(page, name)
        await until(operator, "Number(document.getElementById('time').value.split(':')[1]) >= 15")
        await operator.click("#stop")
        await until(operator, "document.body.dataset.state === 'ended'")
        await until(screen, "document.body.dataset.state === 'ended'")
        stream = await operator.evaluate("document.body.dataset.stream")
        heard = bytes(await operator.evaluate("heard"))
        shown, announced, touched = [await screen.evaluate(x) for x in (SHOWN, "announced", "touched")]
        panes = await operator.evaluate(
            """[...document.querySelectorAll(".pane")].map((pane) =>
                [...pane.querySelectorAll("p")].map((p) => p.textContent))"""
        )
        transcript = json.loads(await fetch(server, f"/v1/streams/{stream}.json"))
        resumes = server.metrics.resumes._value.get()
        cued = await cues.json_value()

    undisturbed = Stream(Gemma3n.from_pretrained(NANO), source="es", targets=["en"])
    events = [*undisturbed.feed(heard), *undisturbed.close()]
    said, meant = (
        [event.stable for event in events if event.type == kind and event.final and event.stable]
        for kind in ("transcript", "translation")
    )
    assert resumes == 1
    assert len(heard) / 32_000 == pytest.approx(transcript["duration"], abs=1e-9)
    assert len(said) >= 3
    assert [one["transcript"] for one in transcript["utterances"]] == said
    assert panes == [said, meant]
    assert shown == meant
    assert touched == []
    assert announced == meant[len(meant) - len(announced) :]
    assert len(announced) >= 2
    assert all(len(lines) <= 2 and all(len(line) <= 42 for line in lines) for lines in cued)
    words = " ".join(" ".join(lines) for lines in cued).split()
    assert words
    assert " ".join(words) in " ".join(meant)


async def test_a_file_is_sent_paused_and_downloaded(browser, tmp_path):
    short = tmp_path / "short.wav"
    samples, rate = soundfile.read(RECORDING, dtype="float32")
    soundfile.write(short, np.repeat(samples[: 4 * rate], 3), 3 * rate)  # 48 kHz, as recordings are
    async with translating() as server, opened(browser, accept_downloads=True) as page:
        await page.goto(server.http)
        await page.select_option("#source", "es")
        await page.set_input_files("#file", short)
        await page.click("#start")
        await until(page, "document.getElementById('gate').dataset.open === 'true'")
        await page.click("#pause")
        await until(page, "document.getElementById('gate').dataset.open === 'false'")
        await until(page, "!document.querySelector('.pane .tentative')")
        assert await page.inner_text("#state") == "Paused"
        assert await page.get_attribute("#pause", "aria-pressed") == "true"
        await page.click("#pause")
        await until(page, "document.body.dataset.state === 'ended'")
        meant = await page.evaluate("[...document.querySelectorAll('.pane')].at(-1).innerText")
        async with page.expect_download() as waiting:
            await page.click("a[data-form=srt]")
        download = await waiting.value
        await download.save_as(tmp_path / "subtitles.srt")
        delay = await page.inner_text("#delay")
        level = await page.evaluate("document.getElementById('level').value")
        stream = await page.evaluate("document.body.dataset.stream")
        about = json.loads(await fetch(server, f"/v1/streams/{stream}"))

    srt = (tmp_path / "subtitles.srt").read_text("utf-8")
    assert download.suggested_filename == f"{stream}.en.srt"
    assert " ".join(meant.split()) == " ".join(
        word for block in srt.split("\n\n") for word in " ".join(block.split("\n")[2:]).split()
    )
    assert -60 <= level <= 0
    assert 0 <= float(delay.removesuffix(" s")) < 30
    assert about["ended"]
    assert 3.9 < about["audio_received"] < 5


async def test_a_qr_code_leads_viewers_there(browser):
    import zxingcpp

    async with running() as server, opened(browser) as page:
        await page.goto(server.http)
        link = "https://example.org:8765/watch/Jq2m8Zr1cW0vTn5x?target=en"
        pixels = await page.evaluate(
            """async (link) => {
              const image = new Image(400, 400);
              image.src = `/qr.svg?link=${encodeURIComponent(link)}`;
              await image.decode();
              const canvas = Object.assign(document.createElement("canvas"), { width: 400, height: 400 });
              const context = canvas.getContext("2d");
              context.drawImage(image, 0, 0, 400, 400);
              return [...context.getImageData(0, 0, 400, 400).data].filter((_, index) => index % 4 === 0);
            }""",
            link,
        )

    (code,) = zxingcpp.read_barcodes(np.array(pixels, np.uint8).reshape(400, 400))
    assert code.text == link


@pytest.mark.parametrize("seed", range(2))
async def test_tentative_text_never_moves_stable_text(browser, seed):
    """Where stable words stand is measured while what is tentative behind them changes at random."""
    rng = random.Random(seed)
    letters = ["abcdefgiklm", "東京都港区は大きい"]
    words = [
        "".join(rng.choices(letters[n // 20 % 2], k=rng.randint(1, 14)))
        + rng.choice(["", "", ",", "。", "」"])
        for n in range(160)
    ]
    events = []
    for utterance in range(4):
        said = " ".join(words[40 * utterance : 40 * (utterance + 1)])
        stable = 0
        while stable < len(said):
            for _ in range(3):
                guess = said[stable : stable + rng.randint(0, 30)] + rng.choice(
                    ["", " wrong guess indeed", "s"]
                )
                events.append((utterance, said[:stable], guess, False))
            stable += rng.randint(1, 25)
        events.append((utterance, said, "", True))
    async with running() as server, opened(browser, viewport={"width": 500, "height": 400}) as page:
        await page.goto(server.http + "/watch/none")
        moved = await page.evaluate(
            """async (events) => {
              const { Captions } = await import("/pages/captions.js");
              const text = document.getElementById("text");
              const captions = new Captions(text, "en");
              const places = () => [...text.querySelectorAll(".stable")].flatMap((span) =>
                [...span.getClientRects()].map(({ left, top, right, bottom }) => [left, top, right, bottom]));
              const content = () => [...text.querySelectorAll(".stable")].map((s) => s.textContent).join("|");
              const moved = [];
              let [before, was] = [places(), content()];
              for (const [utterance, stable, tentative, final] of events) {
                captions.show({ utterance, stable, tentative, final });
                const [after, now] = [places(), content()];
                if (now === was && JSON.stringify(after) !== JSON.stringify(before)) {
                  moved.push([stable, tentative]);
                }
                [before, was] = [after, now];
              }
              const lines = [...text.querySelectorAll("p")].map((p) => p.textContent);
              return [moved, lines, text.scrollHeight > 2 * text.clientHeight];
            }""",
            events,
        )

    assert moved[0] == []
    assert moved[1] == [" ".join(words[40 * n : 40 * (n + 1)]) for n in range(4)]
    assert moved[2]


async def test_what_assistive_technology_is_told(browser):
    async with running() as server, opened(browser) as page:
        await page.goto(server.http + "/watch/none")
        await until(page, "document.body.dataset.state === 'failed'")
        assert await page.inner_text("#state") == "These subtitles are not there (any more)"
        log = page.locator("#announced")
        assert [await log.get_attribute(name) for name in ("role", "aria-live", "aria-relevant")] == [
            "log",
            "polite",
            "additions",
        ]
        for path in ("/", "/watch/none"):
            await page.goto(server.http + path)
            unnamed = await page.evaluate("""
              [...document.querySelectorAll("button, input, select, meter, a[href]")]
              .filter((e) => !(e.labels?.length || e.ariaLabel || e.textContent.trim()))
              .map((e) => e.outerHTML)
            """)
            assert unnamed == []
            assert await page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", {"place": "end", "color": "rgb(255, 255, 255)", "align": "center"}),
        (
            "position=top&align=start&color=yellow&size=40px&background=transparent",
            {"place": "start", "color": "rgb(255, 255, 0)", "align": "start", "size": "40px"},
        ),
        ("color=}body{display:none&position=nowhere", {"place": "end", "color": "rgb(255, 255, 255)"}),
    ],
)
async def test_overlays_are_styled_by_their_address(browser, query, wanted):
    async with running() as server, opened(browser) as page:
        await page.goto(f"{server.http}/overlay/none?{query}")
        await page.wait_for_selector("#cue", state="attached")
        style = await page.evaluate("""() => {
          const [body, cue] = [document.body, document.getElementById("cue")].map((e) => getComputedStyle(e));
          return { place: body.justifyContent, color: cue.color, align: cue.textAlign, size: cue.fontSize,
            background: body.backgroundColor };
        }""")

    assert style["background"] == "rgba(0, 0, 0, 0)"
    assert style | wanted == style
