"""How much of something somebody may have: so many at a time, so many a second."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable

MOST_REMEMBERED = 65_536
"""Buckets that are kept; of more, those that were asked for longest ago are full again anyway."""


class Buckets:
    """A token bucket for everybody: ``rate`` a second, and up to ``burst`` at once.

    Args:
        rate: how fast a bucket fills.
        burst: what it holds.
        clock: seconds that never go back.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        # What each bucket held at which moment; less than nothing is owed.
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, who: Hashable, amount: float = 1.0) -> float:
        """Take from somebody's bucket if there is enough; returns in how many seconds there will be, or 0."""
        level = self._level(who)
        if level < amount:
            return (amount - level) / self._rate
        self._put(who, level - amount)
        return 0.0

    async def take_soon(self, who: Hashable, amount: float) -> None:
        """Take from somebody's bucket, and wait for as long as it takes to fill again."""
        level = self._level(who) - amount
        self._put(who, level)
        if level < 0:
            await asyncio.sleep(-level / self._rate)

    def _level(self, who: Hashable) -> float:
        now = self._clock()
        level, moment = self._levels.get(who, (self._burst, now))
        return min(self._burst, level + (now - moment) * self._rate)

    def _put(self, who: Hashable, level: float) -> None:
        self._levels[who] = (level, self._clock())
        self._levels.move_to_end(who)
        if len(self._levels) > MOST_REMEMBERED:
            self._levels.popitem(last=False)


class Places:
    """So many at a time for everybody.

    Args:
        most: for each.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[Hashable] = Counter()

    def take(self, who: Iterable[Hashable]) -> bool:
        """Take a place of each, or of none if one has none left."""
        everybody = list(who)
        if any(self._taken[one] >= self._most for one in everybody):
            return False
        self._taken.update(everybody)
        return True

    def leave(self, who: Iterable[Hashable]) -> None:
        """Give places back."""
        for one in who:
            self._taken[one] -= 1
            if not self._taken[one]:
                del self._taken[one]
