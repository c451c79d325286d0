"""All workers of one kind: which of them takes a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from workers.protocols import WorkerLostError
from workers.pump import Pump


class Fleet:
    """The pumps of encoder workers, or of decoder workers.

    Args:
        pumps: of at least one worker that is no spare.
        target_load: share of the time that a worker may be busy, as far as can be foreseen of new streams;
            0 is without a limit. A worker that could use a narrower sub-model takes them all the same.
    """

    def __init__(self, pumps: Sequence[Pump], target_load: float = 0.0) -> None:
        self.pumps = pumps
        self._target_load = target_load
        # Held by a stream that goes on for the second time without having got any further: one after the
        # other, so that a stream that kills its workers takes no other with it again.
        self.suspects = asyncio.Lock()
        self._room = asyncio.Event()
        for pump in pumps:
            pump.on_room = self._room.set

    @property
    def alive(self) -> bool:
        """Whether a worker is alive."""
        return any(pump.alive for pump in self.pumps)

    def take(self, *, spares: bool = False) -> Pump | None:
        """Take a place on the worker with the most room; ``None`` when there is none.

        Args:
            spares: whether those may be taken, too; others go before them. They are also where all others
                are lost.
        """
        spares = spares or not any(pump.alive and not pump.spare for pump in self.pumps)
        free = [
            pump
            for pump in self.pumps
            if pump.credits > 0 and (spares or not (pump.spare or self._is_at_its_limit(pump)))
        ]
        if not free:
            return None
        best = max(free, key=lambda pump: (not pump.spare, pump.credits))
        # Until its next reply and the next measurement, so that streams that come together spread.
        best.credits -= 1
        best.load += best.load_of_one
        return best

    def _is_at_its_limit(self, pump: Pump) -> bool:
        return bool(self._target_load) and pump.narrowest and pump.load + pump.load_of_one > self._target_load

    async def take_soon(self, seconds: float) -> Pump:
        """Take a place, on a spare if need be, as soon as there is one.

        Raises:
            WorkerLostError: there is none for so long.
        """
        try:
            async with asyncio.timeout(seconds):
                while (pump := self.take(spares=True)) is None:
                    self._room.clear()
                    await self._room.wait()
                return pump
        except TimeoutError:
            raise WorkerLostError(f"no worker had room for {seconds:g} s") from None
