"""How busy workers are, and narrower sub-models for those that have too much to do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pipeline.gemma.elastic import WidthLimits, WidthPolicy
from workers.fleet import Fleet
from workers.protocols import WorkerLostError
from workers.pump import Pump

PERIOD = 1.0
"""Seconds from one measurement to the next."""

WEIGHT = 0.3
"""Of a measurement among those before it, so that one second's silence is no room."""

WIDEN = 0.7
"""Share of the target below which a wider sub-model is tried."""

LEAST_LOAD = 0.02
"""Below this, streams are silent, and how much one takes when it speaks cannot be told."""

logger = logging.getLogger(__name__)


class Pressure:
    """Measures the load of a fleet's workers, and has them change their sub-models by it.

    Args:
        fleet: whose workers.
        latency: seconds from the end of speech to its final text, as lately measured.
        target_load: share of the time that workers should be busy at most; 0 only measures.
    """

    def __init__(self, fleet: Fleet, latency: Callable[[], float], *, target_load: float = 0.0) -> None:
        self._fleet = fleet
        self._latency = latency
        self._target_load = target_load
        self._policies: dict[Pump, WidthPolicy] = {}
        self._seen: dict[Pump, float] = {}

    async def run(self) -> None:
        """Measure and change until cancelled."""
        loop = asyncio.get_running_loop()
        measured = loop.time()
        while True:
            await asyncio.sleep(PERIOD)
            now = loop.time()
            await self.measure(now - measured)
            measured = now

    async def measure(self, seconds: float) -> None:
        """Take note of what has been done in the last ``seconds``, and change sub-models accordingly."""
        for pump in self._fleet.pumps:
            busy = pump.busy_seconds - self._seen.get(pump, 0.0)
            self._seen[pump] = pump.busy_seconds
            share = min(1.0, busy / seconds)
            pump.load += WEIGHT * (share - pump.load)
            if pump.streams and pump.load > LEAST_LOAD:
                pump.load_of_one = pump.load / pump.streams
            if self._target_load and pump.alive and len(pump.ladder) > 1:
                await self._choose(pump)

    async def _choose(self, pump: Pump) -> None:
        if pump not in self._policies:
            limits = WidthLimits(narrow_load=self._target_load, widen_load=WIDEN * self._target_load)
            self._policies[pump] = WidthPolicy(pump.ladder, limits)
        widths = self._policies[pump].choose_width(pump.load, self._latency())
        if widths == pump.widths:  # it is not for a worker that has begun anew, with the whole model
            return
        try:
            await pump.narrow(widths)
        except WorkerLostError:
            return
        logger.warning("%s goes on in sub-model %d", pump.name, pump.ladder.index(widths))
