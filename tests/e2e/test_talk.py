"""The main job: a recording through the command line and through a server, to the same text."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from benchmarks.quality import normalise
from pipeline.audio.files import read_audio
from tests.workers.conftest import client

SURTITLE = (sys.executable, "-m", "pipeline")
LANGUAGES = ("--from", "es", "--to", "en")
SAID = (
    "El gato está rompiendo este sofá. Todas las hojas del árbol se pusieron amarillas. "
    "No puedo explicar todo ahora. Creo que mañana será un gran día."
)
MEANT = (
    "The cat is destroying this couch. All of the tree's leaves turned yellow. "
    "I can't explain everything now. I think tomorrow will be a great day."
)


def surtitle(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SURTITLE, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )


@asynccontextmanager
async def serving(*options: str):
    """A server as a user starts it; yields its address."""
    process = await asyncio.create_subprocess_exec(
        *(*SURTITLE, "serve", "--port", "0", *options),
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        line = (await process.stderr.readline()).decode()
        assert line.startswith("surtitle ready on ws://127.0.0.1:"), line
        yield line.split()[3]
        os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(30):
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def pcm(waveform: np.ndarray) -> bytes:
    return np.clip(np.rint(waveform * 32_768), -32_768, 32_767).astype("<i2").tobytes()


async def converse(url: str, data: bytes, frame: int, *, partials: bool = True) -> list[dict]:
    start = {"type": "start", "source": "es", "targets": ["en"], "partials": partials}
    async with client(url, start) as speaker:
        frames = (data[begin : begin + frame] for begin in range(0, len(data), frame))
        sending = asyncio.create_task(speaker.send(*frames, {"type": "stop"}))
        received = await speaker.rest()
        await sending
        return received


def finals(received: list[dict]) -> list[tuple]:
    return [
        (e["type"], e["start"], e["end"], e["stable"]) for e in received if e.get("final") and e["stable"]
    ]


@pytest.fixture(scope="module")
def offline(recording: Path) -> dict:
    result = surtitle("translate", recording, *LANGUAGES, "--format", "json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_command_tells_what_was_said_when(offline: dict):
    assert offline.keys() == {"source", "targets", "duration", "utterances"}
    assert offline["duration"] > 10
    for said in offline["utterances"]:
        assert 0 <= said["start"] < said["end"] <= offline["duration"]
        assert said["transcript"]
        assert said["translations"]["en"]
    assert len(offline["utterances"]) == 4


def test_the_words_are_right(offline: dict):
    heard = " ".join(said["transcript"] for said in offline["utterances"])
    understood = " ".join(said["translations"]["en"] for said in offline["utterances"])

    assert jiwer.wer(normalise(SAID), normalise(heard)) <= 0.1
    # There are many ways to say it; one that is wrong shares few words with the one here.
    assert jiwer.wer(normalise(MEANT), normalise(understood)) <= 0.6


@pytest.mark.parametrize(
    ("form", "beginning"), [("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n"), ("text", "es  ")]
)
def test_other_formats_say_the_same(offline: dict, recording: Path, tmp_path: Path, form, beginning):
    output = tmp_path / f"talk.{form}"
    result = surtitle("translate", recording, *LANGUAGES, "--format", form, "--output", output)
    text = output.read_text("utf-8")

    assert (result.returncode, result.stdout) == (0, "")
    assert text.startswith(beginning)
    for said in offline["utterances"]:
        assert said["translations"]["en"] in text.replace("\n", " ")


async def test_a_server_gives_every_client_the_text_of_the_command(offline: dict, recording: Path):
    """Several at once, in frames of different sizes."""
    data = pcm(read_audio(recording))
    async with serving() as url:
        conversations = await asyncio.gather(*(converse(url, data, frame) for frame in (640, 3_200, 50_001)))

    expected = [
        (kind, said["start"], said["end"], text)
        for said in offline["utterances"]
        for kind, text in (("transcript", said["transcript"]), ("translation", said["translations"]["en"]))
    ]
    for received in conversations:
        assert [event["seq"] for event in received] == list(range(1, len(received) + 1))
        assert finals(received) == expected


async def test_minutes_are_translated_to_their_end_live_and_offline(recording: Path, tmp_path: Path):
    talk = np.tile(read_audio(recording), 13)
    path = tmp_path / "long.wav"
    soundfile.write(path, talk, 16_000)
    result = await asyncio.to_thread(surtitle, "translate", path, *LANGUAGES, "--format", "json")
    offline = json.loads(result.stdout)
    async with serving() as url:
        received = await converse(url, pcm(read_audio(path)), 32_000, partials=False)

    assert offline["duration"] > 120
    assert offline["utterances"][-1]["start"] > offline["duration"] - 8
    assert [text for kind, _, _, text in finals(received) if kind == "transcript"] == [
        said["transcript"] for said in offline["utterances"]
    ]
