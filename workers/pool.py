"""The workers of one server and the pumps that feed them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from workers.fleet import Fleet
from workers.metrics import Metrics
from workers.pressure import Pressure
from workers.protocols import Worker
from workers.pump import Pump
from workers.tracing import Tracing


@dataclass(frozen=True)
class Pool:
    """Workers of each kind, started and running."""

    encoders: Fleet
    decoders: Fleet


@asynccontextmanager
async def run_pool(
    encoders: Sequence[Worker],
    decoders: Sequence[Worker],
    metrics: Metrics,
    *,
    spares: int = 0,
    target_load: float = 0.0,
    tick: float = 0.02,
    tracing: Tracing | None = None,
) -> AsyncIterator[Pool]:
    """Start workers, all at once, and carry requests to them until the block is left.

    Args:
        encoders: workers that take audio.
        decoders: workers that take speech events.
        metrics: where to count calls and losses.
        spares: how many of each kind, the last, are there for streams of others that are lost.
        target_load: share of the time that workers may be busy; 0 is without a limit.
        tick: least seconds from one call of a worker to its next.
        tracing: told of every request.

    Raises:
        WorkerLostError: one of them could not be started.
    """

    def fleet(stage: str, workers: Sequence[Worker]) -> Fleet:
        observe, lost = partial(metrics.observe_call, stage), metrics.lost.labels(stage).inc
        made = Fleet(
            [
                Pump(
                    f"{stage} {number}",
                    worker,
                    tick=tick,
                    spare=number >= len(workers) - spares,
                    observe=observe,
                    trip=partial(tracing.trip, stage) if tracing else None,
                    lost=lost,
                )
                for number, worker in enumerate(workers)
            ],
            target_load,
        )
        metrics.watch(stage, made.pumps)
        return made

    pool = Pool(fleet("encoder", encoders), fleet("decoder", decoders))
    every = [*pool.encoders.pumps, *pool.decoders.pumps]
    await asyncio.gather(*(pump.start() for pump in every))
    tasks = [asyncio.create_task(pump.run(), name=pump.name) for pump in every]
    for kind in (pool.encoders, pool.decoders):
        pressure = Pressure(kind, metrics.recent_latency, target_load=target_load)
        tasks.append(asyncio.create_task(pressure.run(), name="pressure"))
    try:
        yield pool
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
