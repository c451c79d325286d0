"""What is known of a talk, told a real model over a WebSocket; and what is refused harms nobody."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.config import ContextConfig, StreamConfig
from pipeline.gemma import bias
from pipeline.gemma.bias import Pull
from pipeline.glossary import says
from pipeline.model import Gemma3n
from pipeline.stream import Stream
from pipeline.wire.events import Transcript, Translation
from tests.conftest import ROOT
from tests.workers.conftest import client, finals, running
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.loading import load_decoder, load_encoder

START = {"type": "start", "source": "es", "targets": ["en"], "partials": False}
STOP = {"type": "stop"}
FRAME = 32_000

GLOSSARY = ["Zyx", {"es": "gato", "en": "tomcat"}]
NO_GLOSSARIES = {
    "glossary must be a list": "Ana",
    "a glossary must be a list of at most 100 entries": ["Ana"] * 101,
    "entry 1 must be a term of 1 to 60 characters": ["Ana", "a" * 61],
    "entry 0 must be a term, or an object of languages": [7],
    "entry 0, es, must be a term of 1 to 60 characters": [{"es": None}],
    "entry 0: 'Spanish' is not a language code": [{"Spanish": "gato"}],
}
"""What is said of a glossary that is none, and the glossary."""


@asynccontextmanager
async def serving(folder: Path):
    """A gateway whose workers, in this process, have a model of the tests."""
    load = [partial(load, str(folder), "cpu", "float32") for load in (load_encoder, load_decoder)]
    async with running(encoders=[EncoderWorker(load[0])], decoders=[DecoderWorker(load[1])]) as server:
        yield server


@pytest.fixture(name="sound", scope="module")
def _sound() -> bytes:
    """Two utterances with a pause between them."""
    speech = read_audio(ROOT / "tests/data/speech-en.flac")[: 16_000 * 2]
    pause = np.random.default_rng(0).normal(0, 1e-3, 16_000).astype(np.float32)
    return to_s16le(np.concatenate([pause, speech, pause, speech, pause]))


def frames(data: bytes) -> list[bytes]:
    return [data[begin : begin + FRAME] for begin in range(0, len(data), FRAME)]


def offline(folder: Path, data: bytes, **settings) -> list[tuple]:
    """The final texts of a stream in one process."""
    stream = Stream(
        Gemma3n.from_pretrained(folder), "es", ["en"], config=StreamConfig(partials=False, **settings)
    )
    events = [*stream.feed(data), *stream.close()]
    return [(e.type, e.utterance, e.stable) for e in events if isinstance(e, Transcript | Translation)]


async def heard(url: str, data: bytes, *first: dict) -> list[dict]:
    async with client(url, *first) as speaker:
        sending = asyncio.create_task(speaker.send(*frames(data), STOP))
        received = await speaker.rest()
        await sending
        return received


async def refused(url: str, start: dict) -> tuple[dict, int]:
    """What a stream that does not begin is told, and its close code."""
    async with client(url, start) as speaker:
        (error,) = await speaker.rest()
        return error, speaker.closed_with


async def in_between(url: str, data: bytes, meanwhile, *messages: dict) -> tuple[list[dict], list[dict]]:
    """Errors and finals of a stream in whose midst something else happens and messages are sent."""
    first, *others = frames(data)
    async with client(url, START, first) as speaker:
        received = await speaker.until("ready")
        await meanwhile()
        sending = asyncio.create_task(speaker.send(*messages, *others, STOP))
        received += await speaker.rest()
        await sending
        assert speaker.closed_with == 1000
    return [event for event in received if event["type"] == "error"], finals(received)


async def test_a_glossary_spells_and_renders_the_texts_of_its_stream_and_of_no_other(
    checkpoint: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch
):
    # So strong that nothing else is said, whatever the model would say.
    for name, once in (("SPELLED", False), ("RENDERED", True)):
        monkeypatch.setattr(bias, name, Pull(500.0, 1000.0, once))
    async with serving(checkpoint) as server:
        plain, *given = await asyncio.gather(
            heard(server.url, sound, START),
            heard(server.url, sound, START | {"glossary": GLOSSARY}),
            heard(server.url, sound, START, {"type": "update", "glossary": GLOSSARY}),
        )

    expected = offline(checkpoint, sound, glossary=tuple(GLOSSARY))
    assert [finals(received) for received in given] == [expected] * 2
    assert finals(plain) == offline(checkpoint, sound) != expected
    for kind, _, text in expected:
        assert says(text, "gato" if kind == "transcript" else "tomcat") or says(text, "Zyx")


async def test_a_glossary_that_is_refused_leaves_the_stream_and_others_alone(checkpoint: Path, sound: bytes):
    async with serving(checkpoint) as server:

        async def others_are_refused():
            for says_, glossary in NO_GLOSSARIES.items():
                error, code = await refused(server.url, START | {"glossary": glossary})
                assert (error["code"], error["fatal"], code) == ("bad_message", True, 1008)
                assert says_ in error["message"]

        updates = [{"type": "update", "glossary": glossary} for glossary in NO_GLOSSARIES.values()]
        errors, texts = await in_between(server.url, sound, others_are_refused, *updates)

    assert [(error["code"], error["fatal"]) for error in errors] == [("bad_message", False)] * len(updates)
    for error, says_ in zip(errors, NO_GLOSSARIES, strict=True):
        assert says_ in error["message"]
    assert texts == offline(checkpoint, sound)


async def test_a_model_that_was_made_for_it_is_told_the_context(listening_checkpoint: Path, sound: bytes):
    context = {"text": "Ana Belén", "sentences": 2}
    async with serving(listening_checkpoint) as server:
        plain, told, untold = await asyncio.gather(
            heard(server.url, sound, START),
            heard(server.url, sound, START | {"context": context}),
            heard(server.url, sound, START | {"context": context}, {"type": "update", "context": {}}),
        )

    expected = offline(listening_checkpoint, sound, context=ContextConfig(**context))
    assert finals(told) == expected
    assert finals(plain) == finals(untold) == offline(listening_checkpoint, sound) != expected


async def test_a_context_for_another_model_is_refused_and_leaves_streams_alone(
    checkpoint: Path, sound: bytes
):
    context = {"context": {"text": "Ana Belén"}}
    async with serving(checkpoint) as server:

        async def others_are_refused():
            error, code = await refused(server.url, START | context)
            assert (error["code"], error["fatal"], code) == ("unsupported", True, 1008)
            assert "not made to be told anything" in error["message"]

        errors, texts = await in_between(
            server.url, sound, others_are_refused, {"type": "update", **context, "partials": True}
        )

    assert [(error["code"], error["fatal"]) for error in errors] == [("unsupported", False)]
    assert texts == offline(checkpoint, sound)
