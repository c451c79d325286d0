"""The workers of one server and the pumps that feed them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from workers.metrics import Metrics
from workers.protocols import Worker
from workers.pump import Pump


@dataclass(frozen=True)
class Pool:
    """Pumps of the workers of each kind, started and running."""

    encoders: Sequence[Pump]
    decoders: Sequence[Pump]


@asynccontextmanager
async def run_pool(
    encoders: Sequence[Worker], decoders: Sequence[Worker], metrics: Metrics, *, tick: float = 0.02
) -> AsyncIterator[Pool]:
    """Start workers, all at once, and carry requests to them until the block is left.

    Args:
        encoders: workers that take audio.
        decoders: workers that take speech events.
        metrics: where to count calls.
        tick: least seconds from one call of a worker to its next.

    Raises:
        WorkerLostError: one of them could not be started.
    """

    def pumps(stage: str, workers: Sequence[Worker]) -> list[Pump]:
        observe = partial(metrics.observe_call, stage)
        return [
            Pump(f"{stage} {number}", worker, tick=tick, observe=observe)
            for number, worker in enumerate(workers)
        ]

    pool = Pool(pumps("encoder", encoders), pumps("decoder", decoders))
    every = [*pool.encoders, *pool.decoders]
    await asyncio.gather(*(pump.start() for pump in every))
    tasks = [asyncio.create_task(pump.run(), name=pump.name) for pump in every]
    try:
        yield pool
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
