"""Where memory ends, it is the stream that finds none which ends, and no other."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline import Gemma3n, Stream
from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.config import StreamConfig
from tests.workers.conftest import client, emptied, finals, running
from tests.workers.scarcity import GREEDY, scarce_decoder, scarce_encoder
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.placement import RayWorker


@pytest.fixture(name="audio", scope="module")
def _audio():
    speech = read_audio(Path(__file__).parents[1] / "data" / "speech-en.flac")
    return to_s16le(np.concatenate([speech, np.zeros(16_000, np.float32)]))


async def said(server, audio, **start):
    """Everything that comes of a recording."""
    begin = {"type": "start", "partials": False, **start}
    pieces = [audio[at : at + 32_000] for at in range(0, len(audio), 32_000)]
    async with client(server.url, begin, *pieces, {"type": "stop"}) as speaker:
        return await speaker.rest()


def workers_with(kind, load, checkpoint, room):
    return [RayWorker(kind, partial(load, str(checkpoint), room), capacity=8, threads=1)]


@pytest.mark.usefixtures("ray")
async def test_streams_beyond_memory_say_what_they_say_with_enough_of_it(checkpoint, audio):
    alone = Stream(
        Gemma3n.from_pretrained(checkpoint), source="es", targets=["en"], config=StreamConfig(partials=False)
    )
    undisturbed = [asdict(event) | {"type": event.type} for event in [*alone.feed(audio), *alone.close()]]
    async with running(
        encoders=workers_with(EncoderWorker, scarce_encoder, checkpoint, 1),
        decoders=workers_with(DecoderWorker, scarce_decoder, checkpoint, 1),
    ) as server:
        *others, failed = await asyncio.gather(
            *(said(server, audio, source="es", targets=["en"]) for _ in range(3)),
            said(server, audio, source=GREEDY, targets=["es"]),
        )
        await emptied([*server.encoders, *server.decoders])

    assert [finals(events) for events in others] == [finals(undisturbed)] * 3
    assert finals(undisturbed)
    assert [events[-1]["type"] for events in others] == ["done"] * 3
    assert (failed[-1]["type"], failed[-1]["code"], failed[-1]["fatal"]) == ("error", "out_of_memory", True)
    assert "memory" in failed[-1]["message"]
    assert not finals(failed)
