"""How many people can speak to a server of this machine at a time.

    python -m benchmarks.load [--streams 1 2 4 8] [--seconds 30] [--config surtitle.toml] [--url URL]

Starts ``surtitle serve`` (or uses the one at ``--url``) and has so many clients, over real sockets, send the
bundled Spanish recording at the speed of speech, again and again, each beginning at another place of it and
at another moment. What is measured is what a client sees: the time from the end of an utterance in the audio
to the arrival of its final translation, less what the voice gate waits to be certain that it was the end. A
number of streams is carried if 95 % of the finals come within 1 s of that decision and none fails. Besides,
from the server's metrics, what 99 % of calls to workers stay below on their way there and back, and what
share of the duration of a client's frame that is.

Prints a table and, as its last line, one JSON object: ``streams`` (most that were carried), ``runs``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.service import FRAME_BYTES, Conversation, Server, serving, speak
from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.config import SAMPLE_RATE, GateConfig

ROOT = Path(__file__).parents[1]

WAIT = GateConfig().hangover
"""Seconds behind an utterance's end until the gate is certain of it."""

CARRIED = 1.0
"""Seconds behind that in which 95 % of the finals have to come."""


@dataclass(frozen=True)
class Run:
    """What one number of streams came to, in seconds; ``p50`` and ``p95`` behind the gate's decision."""

    streams: int
    failed: int
    finals: int
    p50: float
    p95: float
    hop_p99: float = float("nan")

    @property
    def carried(self) -> bool:
        """Whether all were served in time."""
        return not self.failed and self.finals > 0 and self.p95 <= CARRIED


async def measure(url: str, pcm: bytes, streams: int, seconds: float) -> Run:
    """Have ``streams`` people speak for so long."""
    length = int(seconds * SAMPLE_RATE) * 2

    async def one(number: int) -> Conversation:
        begin = number * len(pcm) // streams // 2 * 2
        await asyncio.sleep(number / streams)
        said = pcm[begin:] + pcm * (length // len(pcm) + 1)
        return await speak(url, said[:length])

    results = await asyncio.gather(*map(one, range(streams)), return_exceptions=True)
    conversations = [result for result in results if isinstance(result, Conversation)]
    delays = [delay - WAIT for conversation in conversations for delay in conversation.delays()]
    p50, p95 = np.percentile(delays, (50, 95)) if delays else (float("nan"), float("nan"))
    return Run(streams, streams - len(conversations), len(delays), round(float(p50), 3), round(float(p95), 3))


@asynccontextmanager
async def _server(options: argparse.Namespace) -> AsyncIterator[Server]:
    if options.url is not None:
        yield Server(options.url, 0)
        return
    async with serving(options.config) as server:
        yield server


def _hops(text: str) -> Counter[float]:
    """Upper ends of the buckets of calls' time on the way, and how many calls took no longer."""
    counts: Counter[float] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "surtitle_hop_duration_seconds_bucket":
                counts[float(sample.labels["le"])] += int(sample.value)
    return counts


def percentile(counts: Mapping[float, int], share: float) -> float:
    """Of a cumulative histogram, in its bucket by interpolation, as ``histogram_quantile`` has it."""
    rank = share * max(counts.values(), default=0)
    low, below = 0.0, 0
    for end in sorted(counts):
        if rank and counts[end] >= rank:
            return low if math.isinf(end) else low + (end - low) * (rank - below) / (counts[end] - below)
        low, below = end, counts[end]
    return float("nan")


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=30.0, help="of speech of each stream")
    parser.add_argument("--config", type=Path, help="of the server")
    parser.add_argument("--url", help="of a server that is running, with its path")
    options = parser.parse_args()
    pcm = to_s16le(read_audio(ROOT / "examples" / "talk.es.wav"))
    runs = []
    print(
        f"{os.cpu_count()} cores\n{'streams':>8}{'failed':>8}{'finals':>8}{'p50':>9}{'p95':>9}{'hop p99':>16}"
    )
    async with _server(options) as server:
        for streams in options.streams:
            before = _hops(await server.metrics())
            run = await measure(server.url, pcm, streams, options.seconds)
            after = _hops(await server.metrics())
            hop = percentile({end: count - before[end] for end, count in after.items()}, 0.99)
            runs.append(run := replace(run, hop_p99=round(hop, 4)))
            share = hop * SAMPLE_RATE * 2 / FRAME_BYTES
            print(
                f"{run.streams:>8}{run.failed:>8}{run.finals:>8}{run.p50:>8.3f}s{run.p95:>8.3f}s"
                f"{1000 * hop:>7.1f}ms ={share:>4.0%}",
                flush=True,
            )
    carried = max((run.streams for run in runs if run.carried), default=0)
    print(json.dumps({"streams": carried, "runs": [asdict(run) for run in runs]}))


if __name__ == "__main__":
    asyncio.run(main())
