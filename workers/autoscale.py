"""What a gateway says of the places that it will need, so that more are there before streams are refused.

Every gateway brings workers of its own, so more gateways are more places for streams. A gateway cannot know
of the others, and need not: it tells, as ``surtitle_load``, which share of its own places its streams will
want by the time another gateway could be ready. Loads add up, so an autoscaler that holds their average at 1
makes room for what all gateways together will want, as k8s/overlays/production/release/autoscaler.yaml
does. ``benchmarks.autoscale`` drives the same code with days of conferences.
"""

from __future__ import annotations

import math
from collections import deque

from workers.seat import RETRY_SECONDS

LEAD_SECONDS = 180.0
"""From a change of load to a gateway that is ready: the metric's age, a node, its image, the model."""

_WINDOWS = (60.0, 300.0)
"""Seconds over which growth is looked at: a rush is seen in the first, a slow rise in the second."""

_REFUSALS = 30.0
"""Seconds over which refusals are counted; who is refused asks again every ``RETRY_SECONDS``, anywhere."""

FULL = 0.85
"""The share of places that may be wanted. Balancers know no places, so some gateways fill up early."""


class Forecast:
    """What the streams of one gateway will want.

    Args:
        places: streams that the gateway can have at a time.
        lead: seconds ahead that it looks.
    """

    def __init__(self, places: int, lead: float = LEAD_SECONDS) -> None:
        self._places = places
        self._lead = lead
        # Moments in seconds, and the streams that were wanted then; the first is as old as any window.
        self._seen: deque[tuple[float, float]] = deque()
        # Moments and totals of streams refused.
        self._refused: deque[tuple[float, float]] = deque()

    def observe(self, now: float, streams: float, refused: float) -> float:
        """Take note of how things are, at any moments later than the last; returns the load.

        Args:
            now: seconds on a clock that never goes back.
            streams: that run.
            refused: that had to be refused for want of a place, in total.

        Returns:
            The share of all places, counted so that 1 leaves some free, that will be wanted ``lead`` seconds
            from ``now``. Those who were refused of late and will ask again are wanted, too.
        """
        _remember(self._refused, now, refused)
        wanted = streams + _over(self._refused, now, _REFUSALS) / _REFUSALS * RETRY_SECONDS
        _remember(self._seen, now, wanted)
        growth = max(0.0, *(_over(self._seen, now, window) / window for window in _WINDOWS))
        ahead = wanted + growth * self._lead
        return (ahead + math.sqrt(ahead)) / (FULL * self._places)


def _remember(seen: deque[tuple[float, float]], now: float, value: float) -> None:
    seen.append((now, value))
    while len(seen) > 1 and seen[1][0] <= now - max(_WINDOWS):
        seen.popleft()


def _over(seen: deque[tuple[float, float]], now: float, seconds: float) -> float:
    """By how much a value has changed in the last ``seconds``; since the beginning, if that was later."""
    then = seen[0][1]
    for moment, value in seen:
        if moment > now - seconds:
            break
        then = value
    return seen[-1][1] - then
