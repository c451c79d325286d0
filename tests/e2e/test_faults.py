"""Workers die and hang while people speak, and what comes out is what would have come out."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.models import NANO
from benchmarks.service import Conversation, Server, finals, serving, speak
from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.model import Gemma3n
from pipeline.stream import Stream
from pipeline.wire import events
from tests.workers.conftest import eventually

CONFIG = """
[workers]
spares = 1
threads = 1
"""


@pytest.fixture(name="speech", scope="module")
def _speech(recording: Path) -> bytes:
    waveform: np.ndarray = read_audio(recording)[: 16_000 * 8]
    return to_s16le(waveform)


@pytest.fixture(name="undisturbed", scope="module")
def _undisturbed(speech: bytes) -> list[tuple]:
    live = Stream(Gemma3n.from_pretrained(NANO), "es", ["en"])
    return finals([*live.feed(speech), *live.close()])


async def strike(server: Server, fault: signal.Signals) -> list[float]:
    """Hit the decoder and the encoder that have the streams, in mid-utterance; returns when."""
    began, struck = time.monotonic(), []
    before = {stage: server.cpu(stage) for stage in ("decoder", "encoder")}
    for moment, stage in ((2.0, "decoder"), (5.0, "encoder")):
        await asyncio.sleep(began + moment - time.monotonic())
        used = server.cpu(stage)
        os.kill(max(used, key=lambda pid: used[pid] - before[stage][pid]), fault)
        struck.append(time.monotonic() - began)
    return struck


def silence_after(conversation: Conversation, moment: float) -> float:
    """Seconds to the next text."""
    times = zip(conversation.received, conversation.moments, strict=True)
    return min(at for event, at in times if at > moment and isinstance(event, events.UtteranceText)) - moment


async def test_streams_go_on_when_workers_are_killed_and_stopped(tmp_path, speech, undisturbed):
    config = tmp_path / "surtitle.toml"
    config.write_text(CONFIG)
    async with serving(config) as server:

        async def whole():
            return await server.alive() == [2, 2]

        for fault in (signal.SIGKILL, signal.SIGSTOP):
            await eventually(whole, seconds=60)
            *conversations, struck = await asyncio.gather(
                speak(server.url, speech), speak(server.url, speech), strike(server, fault)
            )
            for conversation in conversations:
                assert conversation.finals() == undisturbed
                assert not conversation.takes_back()
                for moment in struck:
                    assert silence_after(conversation, moment) < 3.0
        metrics = await server.metrics()

    for stage in ("encoder", "decoder"):
        assert f'surtitle_workers_lost_total{{stage="{stage}"}} 2.0' in metrics
        assert f'surtitle_streams_moved_total{{stage="{stage}"}} 4.0' in metrics
