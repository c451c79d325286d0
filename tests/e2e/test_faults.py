"""Workers and gateways die and hang while people speak, and what comes out is what would have come out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import connect

from benchmarks.chaos import free_ports
from benchmarks.models import NANO
from benchmarks.service import (
    FRAME_BYTES,
    Conversation,
    Server,
    cluster,
    finals,
    paced,
    serving,
    speak,
)
from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.config import BEAMS, StreamConfig
from pipeline.model import Gemma3n
from pipeline.stream import Stream
from pipeline.wire import events
from pipeline.wire.commands import Start
from tests.workers.conftest import eventually
from workers.client import converse

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
    live = Stream(Gemma3n.from_pretrained(NANO), "es", ["en"], config=StreamConfig(beams=BEAMS))
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


@pytest.fixture(name="ray_folder")
def _ray_folder():
    """A folder whose path is short enough for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        yield Path(folder)


async def captions(server: Server, stream_id: str) -> list[tuple[int, str]]:
    """What a viewer at a server sees of a stream to its end: the final translations."""
    seen = []
    async with connect(f"{server.url}s/{stream_id}/captions?target=en", proxy=None) as viewer:
        async for message in viewer:
            event = events.decode(message)
            if isinstance(event, events.Translation) and event.final:
                seen.append((event.utterance, event.stable))
    return seen


async def test_streams_go_on_on_another_gateway_when_theirs_is_killed(
    tmp_path, ray_folder, speech, undisturbed
):
    """Two gateways on one Ray; the one with the streams gets SIGKILL in mid-utterance; its workers end, too.

    One who watches at the other gateway all the time sees everything once.
    """
    config = tmp_path / "surtitle.toml"
    config.write_text("[workers]\nthreads = 1\n")
    async with contextlib.AsyncExitStack() as stack, cluster(ray_folder) as shared:
        other, first = await asyncio.gather(
            *(stack.enter_async_context(serving(config, joins=shared)) for _ in range(2))
        )
        started = asyncio.Event()
        conversation, seen = Conversation(), []

        async def speaking():
            began = asyncio.get_running_loop().time()
            said = paced(speech, FRAME_BYTES, began)
            async for event in converse([first.url, other.url], Start("es", ("en",)), said):
                conversation.received.append(event)
                conversation.moments.append(asyncio.get_running_loop().time() - began)
                started.set()

        async def watching():
            await started.wait()
            seen.extend(await captions(other, conversation.received[0].stream_id))

        async def killing():
            await started.wait()
            await asyncio.sleep(4.0)
            os.kill(first.pid, signal.SIGKILL)

        async with asyncio.timeout(120):
            _, second, *_ = await asyncio.gather(
                speaking(), speak([first.url, other.url], speech), watching(), killing()
            )
        metrics = await other.metrics()

    for one in (conversation, second):
        assert one.finals() == undisturbed
        assert not one.takes_back()
    assert seen == [(text[1], text[4]) for text in undisturbed if text[0] == "translation"]
    assert "surtitle_streams_taken_over_total 2.0" in metrics


GATEWAY = """
import sys
from tests.workers.doubles import load_decoder, load_encoder
from workers.serve import serve
from workers.settings import Settings
serve(
    Settings(port=int(sys.argv[1]), threads=1, drain_seconds=0.1), "spelling", load_encoder, load_decoder
)
"""


@contextlib.asynccontextmanager
async def gateway(port: int, environment: Mapping[str, str]):
    """A gateway of a cluster whose streams need no model."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY, str(port)),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment, "PYTHONPATH": os.getcwd()},
        start_new_session=True,
    )
    try:
        assert (await process.stderr.readline()).startswith(b"surtitle ready")
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def test_nothing_is_lost_when_all_gateways_and_workers_are_replaced_one_after_the_other(ray_folder):
    """The third one is there when the others are told to end (SIGTERM); workers end with their gateway."""
    ports = free_ports(3)
    urls = [f"ws://127.0.0.1:{port}/v1/stream" for port in ports]
    words = [f"{word}." for word in ("uno", "dos cosas", "y tres mas", "cuatro", "cinco no", "seis") * 4]
    ended = asyncio.Event()

    async def said():
        for number in itertools.count():
            if ended.is_set():
                return
            yield words[number % len(words)].encode()
            await asyncio.sleep(0.05)

    async def speak_on(start):
        # Streams begin on different gateways.
        known = urls[start:] + urls[:start]
        return [event async for event in converse(known, Start("es", ("en",)), said())]

    async with contextlib.AsyncExitStack() as stack, cluster(ray_folder) as shared, asyncio.timeout(180):
        alive = await asyncio.gather(
            *(stack.enter_async_context(gateway(port, shared.environment)) for port in ports)
        )
        speaking = [asyncio.create_task(speak_on(start)) for start in (0, 1, 0, 1)]
        for one in alive[:2]:
            await asyncio.sleep(0.5)  # of speech
            os.kill(one.pid, signal.SIGTERM)
            await one.communicate()
        ended.set()
        conversations = [Conversation(await speaker) for speaker in speaking]

    for conversation in conversations:
        said_ = "".join(f"{text[4]}." for text in conversation.finals() if text[0] == "transcript")
        assert said_ == ("".join(words) * (len(said_) // len("".join(words)) + 1))[: len(said_)]
        assert conversation.finals()[1::2] == [
            ("translation", number, *rest, f"en:{text.upper()}")
            for _, number, *rest, text in conversation.finals()[::2]
        ]
        assert not conversation.takes_back()
        readies = [event for event in conversation.received if isinstance(event, events.Ready)]
        assert len(readies) > 1
        assert isinstance(conversation.received[-1], events.Done)
        assert not any(isinstance(event, events.Error) for event in conversation.received)
