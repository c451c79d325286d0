"""Everything goes wrong at random while people speak, and nothing may be lost: ``make chaos``.

    python -m benchmarks.chaos [--minutes 10] [--streams 3] [--every 8] [--gateways 1] [--seed N]

Starts ``surtitle serve`` with a spare worker of each kind, or so many of them on a Ray that they share. So
many clients, over real sockets, speak the bundled Spanish recording at the speed of speech, one conversation
after the other. Every few seconds one of these happens: a worker is killed (SIGKILL), a worker is stopped
(SIGSTOP), or every client's connection is cut. Of several gateways one may be killed, too (SIGKILL, and its
workers end with it), and another one is started in its place. The next fault waits until the servers say that
all their workers are alive again, for two at a time is more than one spare is for.

At the end of each conversation its final text is compared with what one undisturbed stream says, and it is
checked that nothing stable was taken back, no final came twice and no event is missing.

Prints a line for each fault and, as its last line, one JSON object: ``conversations``, ``faults`` by kind,
``wrong`` (conversations that came out otherwise) and ``longest_silence`` (seconds between two texts in
mid-utterance). The exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from benchmarks.models import NANO
from benchmarks.service import STAGES, Cluster, Conversation, Server, cluster, finals, serving, speak
from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.config import BEAMS, StreamConfig
from pipeline.errors import SurtitleError
from pipeline.model import Gemma3n
from pipeline.stream import Stream
from pipeline.wire import events

ROOT = Path(__file__).parents[1]

CONFIG = "[workers]\nspares = 1\nthreads = 1\n"

FAULTS = ("kill", "stop", "cut")


def cut_connections(port: int) -> int:
    """Shut the sockets of this process that are connected to a port; returns how many."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.getpeername()[1] == port:
                    sock.shutdown(socket.SHUT_RDWR)
                    count += 1
        except (OSError, IndexError):
            continue
    return count


class Site:
    """Servers that are up until the block is left, and may be harmed.

    Args:
        config: their configuration file.
        shared: the Ray that they share; None for a single one with its own.
        stack: ends them.
    """

    def __init__(self, config: Path, shared: Cluster | None, stack: AsyncExitStack) -> None:
        self._config = config
        self._shared = shared
        self._stack = stack
        self.servers: list[Server] = []

    async def add(self, port: int) -> None:
        """Start a server."""
        options = ("--port", str(port))
        server = serving(self._config, *options, joins=self._shared)
        self.servers.append(await self._stack.enter_async_context(server))

    @property
    def urls(self) -> list[str]:
        """Where their streams are."""
        return [server.url for server in self.servers]

    async def strike(self, fault: str, rng: random.Random) -> str:
        """Do harm; returns what was done."""
        if fault == "cut":
            return f"cut {sum(cut_connections(_port(server)) for server in self.servers)} connections"
        if fault == "gateway":
            server = rng.choice(self.servers)
            self.servers.remove(server)
            os.kill(server.pid, signal.SIGKILL)
            await self.add(_port(server))
            return f"kill gateway {server.pid}"
        stage = rng.choice(sorted(STAGES))
        victim = rng.choice(sorted(rng.choice(self.servers).cpu(stage)))
        os.kill(victim, signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
        return f"{fault} {stage} {victim}"

    async def whole(self) -> None:
        """Wait until all workers are alive."""
        for server in self.servers:
            while await server.alive() != [2, 2]:  # noqa: ASYNC110 - the server's process has no event for us
                await asyncio.sleep(0.5)


def _port(server: Server) -> int:
    return int(server.url.split(":")[2].split("/")[0])


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on."""
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in socks]


def longest_silence(conversation: Conversation) -> float:
    """Most seconds from one text of an utterance to its next."""
    last: tuple[int, float] = (-1, 0.0)
    longest = 0.0
    for event, moment in zip(conversation.received, conversation.moments, strict=True):
        if isinstance(event, events.UtteranceText):
            if event.utterance == last[0]:
                longest = max(longest, moment - last[1])
            last = (event.utterance, moment)
    return longest


async def main() -> int:
    """Run and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument(
        "--every", type=float, default=8.0, help="seconds from one fault to the next, at least"
    )
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"seed {options.seed}")
    pcm = to_s16le(read_audio(ROOT / "examples" / "talk.es.wav"))
    live = Stream(Gemma3n.from_pretrained(NANO), "es", ["en"], config=StreamConfig(beams=BEAMS))
    expected = finals([*live.feed(pcm), *live.close()])
    wrong, faults, silences, began = 0, Counter[str](), [0.0], 0.0

    async def converse(urls: list[str]) -> int:
        nonlocal wrong
        count = 0
        while time.monotonic() - began < options.minutes * 60:
            try:
                rng.shuffle(urls)
                conversation = await speak(urls, pcm)
            except SurtitleError as error:
                print(f"a conversation ended with {error.code}: {error}", flush=True)
                wrong += 1
                continue
            count += 1
            silences.append(longest_silence(conversation))
            if conversation.finals() != expected or conversation.takes_back():
                print("a conversation came out otherwise", flush=True)
                wrong += 1
        return count

    async def harm(site: Site) -> None:
        while True:
            await asyncio.sleep(options.every * rng.uniform(1, 2))
            await site.whole()
            fault = rng.choice((*FAULTS, "gateway") if options.gateways > 1 else FAULTS)
            at = time.monotonic() - began
            print(f"{at:6.1f} s  {await site.strike(fault, rng)}", flush=True)
            faults[fault] += 1

    with tempfile.TemporaryDirectory(prefix="c") as folder:
        config = Path(folder, "surtitle.toml")
        config.write_text(CONFIG, "utf-8")  # noqa: ASYNC240 - nothing else runs yet
        async with AsyncExitStack() as stack:
            several = options.gateways > 1
            shared = await stack.enter_async_context(cluster(Path(folder, "r"))) if several else None
            site = Site(config, shared, stack)
            await asyncio.gather(*(site.add(port) for port in free_ports(options.gateways)))
            began = time.monotonic()
            harming = asyncio.create_task(harm(site))
            urls = site.urls
            counts = await asyncio.gather(*(converse(list(urls)) for _ in range(options.streams)))
            harming.cancel()
            await asyncio.gather(harming, return_exceptions=True)
    result = {
        "conversations": sum(counts),
        "faults": dict(faults),
        "wrong": wrong,
        "longest_silence": round(max(silences), 2),
    }
    print(json.dumps(result))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
