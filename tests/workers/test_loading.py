"""Workers with a real model say what the same stream says in one process."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline import Gemma3n, Stream
from pipeline.audio.files import read_audio
from pipeline.cli import NANO
from pipeline.config import AudioFormat
from pipeline.errors import CheckpointError
from pipeline.gemma.decoder import Decoder
from pipeline.wire.events import encode
from tests.workers.conftest import client, running
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.loading import load_decoder, load_encoder

SPEECH = Path(__file__).parents[1] / "data" / "speech-en.flac"

DECODED = ("speech_start", "speech_end", "transcript", "translation", "ack")


def said(messages):
    """What the decoder half made, without when it was sent and how much had been heard by then."""
    kept = ("utterance", "target", "time", "start", "end", "stable", "tentative", "final")
    return [
        (m["type"], {name: m[name] for name in kept if name in m}) for m in messages if m["type"] in DECODED
    ]


@pytest.fixture(scope="module")
def pcm():
    speech, pause = read_audio(SPEECH), np.zeros(16_000, np.float32)
    return (np.concatenate([pause, speech, pause]) * 32_767).astype("<i2").tobytes()


def worker(kind, load, checkpoint):
    return kind(partial(load, str(checkpoint), "cpu", "float32"))


async def test_the_service_says_what_a_stream_says(checkpoint, pcm):
    stream = Stream(Gemma3n.from_pretrained(checkpoint), "es", ["en"], AudioFormat())
    expected = said([json.loads(encode(event)) for event in [*stream.feed(pcm), *stream.close()]])
    workers = {
        "encoders": [worker(EncoderWorker, load_encoder, checkpoint)],
        "decoders": [worker(DecoderWorker, load_decoder, checkpoint)],
    }

    async def speak(size):
        async with client(server.url, {"type": "start"}) as speaker:
            sending = asyncio.create_task(
                speaker.send(*(pcm[i : i + size] for i in range(0, len(pcm), size)), {"type": "stop"})
            )
            received = await speaker.rest()
            await sending
            return received

    async with running(**workers) as server:
        conversations = await asyncio.gather(speak(3_200), speak(7_777))

    for received in conversations:
        assert [event["seq"] for event in received] == list(range(1, len(received) + 1))
        assert received[-1]["type"] == "done"
        # Silence is told when it is noticed; everything else is the same for every cut.
        spoken = [event for event in said(received) if event[0] != "ack"]
        assert spoken == [event for event in expected if event[0] != "ack"]


async def test_a_language_that_the_model_does_not_know_is_refused(checkpoint):
    workers = {
        "encoders": [worker(EncoderWorker, load_encoder, checkpoint)],
        "decoders": [worker(DecoderWorker, load_decoder, checkpoint)],
    }
    start = {"type": "start", "targets": ["de"]}
    async with running(**workers) as server, client(server.url, start) as speaker:
        (error,) = await speaker.rest()

    assert (error["code"], error["fatal"]) == ("unknown_language", True)
    assert error["message"] == "unknown language 'de'; this model knows es, en"


@pytest.mark.parametrize("load", [load_encoder, load_decoder])
def test_a_folder_that_is_no_model_is_an_error(tmp_path, load):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load(str(tmp_path), "cpu", "float32")


@pytest.mark.parametrize(
    ("load", "read", "spared"),
    [
        (load_encoder, "audio_tower", "language_model"),
        (load_decoder, "language_model", "audio_tower"),
    ],
)
def test_a_worker_holds_the_weights_of_its_own_stage(load, read, spared):
    loaded = load(str(NANO), "cpu", "float32")

    model = loaded.open_stream.args[0]
    assert not any(weight.is_meta for weight in getattr(model, read).parameters())
    assert all(weight.is_meta for weight in getattr(model, spared).parameters())


def test_layers_are_compiled_before_passes_are_recorded(checkpoint, monkeypatch):
    done = []
    monkeypatch.setattr(Decoder, "fuse", lambda self: done.append("fuse"))
    monkeypatch.setattr(Gemma3n, "prepare", lambda self, *_, ffn_widths: done.append("prepare"))
    load_decoder(str(checkpoint), "cpu", "float32")
    assert "fuse" not in done
    done.clear()
    loaded = load_decoder(str(checkpoint), "cpu", "float32", fuse=True)

    assert done == ["fuse", *["prepare"] * len(loaded.ladder)]


def test_all_sub_models_that_streams_may_be_resized_to_are_prepared(monkeypatch):
    prepared = []
    monkeypatch.setattr(
        Gemma3n,
        "prepare",
        lambda self, pool, streams, positions, *, ffn_widths: prepared.append((streams, ffn_widths)),
    )
    loaded = load_decoder(str(NANO), "cpu", "float32", streams=7)

    assert len(loaded.ladder) > 1
    assert prepared == [(7, widths) for widths in loaded.ladder]
