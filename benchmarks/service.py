"""A server in processes of its own, and people who speak to it at the speed of speech."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from pipeline.config import SAMPLE_RATE
from pipeline.wire import events
from pipeline.wire.commands import Start
from workers.client import converse

FRAME_BYTES = 3_200
"""What is sent at a time: 16 kHz, 16 bit, mono."""

STAGES = {"encoder": "EncoderWorker", "decoder": "DecoderWorker"}


@dataclass(frozen=True)
class Server:
    """A server that is running.

    Args:
        url: of its streams.
        pid: of its process.
        session: process session of its workers; those of all gateways of a cluster have one.
    """

    url: str
    pid: int
    session: int

    def cpu(self, stage: str) -> dict[int, int]:
        """Process ids of the workers of a stage, with the clock ticks that each has computed."""
        used = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                title = (stat.parent / "cmdline").read_bytes()
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if title.startswith(f"ray::{STAGES[stage]}".encode()) and int(fields[3]) == self.session:
                used[int(stat.parent.name)] = int(fields[11])
        return used

    async def metrics(self) -> str:
        """What ``/metrics`` shows."""
        async with httpx2.AsyncClient() as http:
            return (await http.get(f"http://{urlsplit(self.url).netloc}/metrics")).text

    async def alive(self) -> list[int]:
        """How many workers of each kind are alive, as the server knows."""
        counts = re.findall(r"surtitle_workers\{.*\} (.*)", await self.metrics())
        return [int(float(count)) for count in counts]


@dataclass(frozen=True)
class Cluster:
    """A Ray that is running.

    Args:
        environment: variables with which gateways join it.
        session: its process session.
    """

    environment: Mapping[str, str]
    session: int


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Run a Ray for several gateways on this machine.

    Args:
        folder: where it keeps its files; its path must be short.
    """
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_worker_prestart": "0",
    }
    places = json.dumps({f"surtitle_{stage}": 1_000 for stage in STAGES})
    process = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}"),
        *("--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--include-dashboard=false"),
        *("--num-cpus=1", f"--resources={places}", "--object-store-memory=80000000"),
        *("--disable-usage-stats", "--include-log-monitor=false"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if b"Ray runtime started" in line:
                break
        swallowing = asyncio.create_task(process.stdout.read())
        yield Cluster({**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await swallowing


@asynccontextmanager
async def serving(
    config: Path | None = None, *options: str, joins: Cluster | None = None
) -> AsyncIterator[Server]:
    """Run ``surtitle serve`` on a free port; what it logs is swallowed.

    Args:
        config: its configuration file.
        options: of the command.
        joins: where it is to be one of several gateways.
    """
    given = () if config is None else ("--config", str(config))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline", "serve", "--port", "0", *given, *options),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(joins.environment if joins else {})},
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        line = (await process.stderr.readline()).decode()
        if not line.startswith("surtitle ready on "):
            raise RuntimeError(f"the server does not start: {line}")
        swallowing = asyncio.create_task(process.stderr.read())
        yield Server(line.split()[3], process.pid, joins.session if joins else process.pid)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(30):
            await swallowing
            await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def paced(data: bytes, frame: int, begin: float) -> AsyncIterator[bytes]:
    """Frames of 16-bit audio, each at the moment when it has been spoken.

    Args:
        data: at 16 kHz, mono.
        frame: bytes of a frame.
        begin: when the speaker began, by the event loop's clock.
    """
    loop = asyncio.get_running_loop()
    for at in range(0, len(data), frame):
        piece = data[at : at + frame]
        spoken = begin + (at + len(piece)) / (2 * SAMPLE_RATE)
        await asyncio.sleep(spoken - loop.time())
        yield piece


@dataclass
class Conversation:
    """What came back to one speaker.

    Args:
        received: the events.
        moments: when each came, in seconds from the first audio on.
    """

    received: list[events.Event] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)

    def finals(self) -> list[tuple[str, int, float, float, str]]:
        """All that is final, but for when it came."""
        return finals(self.received)

    def delays(self) -> list[float]:
        """Seconds from the end of each utterance to its final translation."""
        return [
            moment - event.end
            for event, moment in zip(self.received, self.moments, strict=True)
            if isinstance(event, events.Translation) and event.final
        ]

    def takes_back(self) -> bool:
        """Whether stable text was changed, a final came twice, or the numbers have gaps."""
        stable: dict[tuple[int, str], str] = {}
        final: set[tuple[int, str]] = set()
        for event in self.received:
            if isinstance(event, events.UtteranceText):
                key = (event.utterance, getattr(event, "target", ""))
                if key in final or not event.stable.startswith(stable.get(key, "")):
                    return True
                stable[key] = event.stable
                if event.final:
                    final.add(key)
        return [event.seq for event in self.received] != list(range(1, len(self.received) + 1))


def finals(received: list[events.Event]) -> list[tuple[str, int, float, float, str]]:
    """All that is final among events."""
    return [
        (event.type, event.utterance, event.start, event.end, event.stable)
        for event in received
        if isinstance(event, events.UtteranceText) and event.final
    ]


async def speak(url: str | Sequence[str], pcm: bytes, source: str = "es", target: str = "en") -> Conversation:
    """Say something at the speed of speech; broken connections are taken up again.

    Args:
        url: of the server, or of several gateways.
        pcm: what is said; 16 kHz, 16 bit, mono.
        source: its language.
        target: to translate it into.

    Raises:
        StreamError: the server refuses or ends the stream.
    """
    clock = asyncio.get_running_loop().time
    conversation, began = Conversation(), clock()
    async for event in converse(url, Start(source, (target,)), paced(pcm, FRAME_BYTES, began)):
        conversation.received.append(event)
        conversation.moments.append(clock() - began)
    return conversation
