"""Unix time that does not jump: it stamps events, and what waits for their times may rely on it."""

from __future__ import annotations

import time
from collections.abc import Callable


def _steady() -> float:
    """Seconds that go on while the machine sleeps, where the system counts those."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _wall() -> float:
    return time.time()


def unix_clock(
    wall: Callable[[], float] = _wall, steady: Callable[[], float] = _steady
) -> Callable[[], float]:
    """A clock that starts with what the machine's says now and goes on steadily, whatever that one is set to.

    Args:
        wall: Unix time in seconds; it is asked once.
        steady: seconds that never go back.
    """
    offset = wall() - steady()
    return lambda: steady() + offset
