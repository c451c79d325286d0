"""Fixed delay: stable is what is older than so many seconds, the baseline that others have to beat.

Of a hypothesis as many words are stable as one had that was made of ``delay`` seconds less of audio; what
they say now is taken, for it was made of more (hold-n and wait-k of the literature, by time, not by words).
"""

from __future__ import annotations

from collections import deque

from pipeline.text.stability import Hypothesis, StabilityPolicy


class FixedDelay(StabilityPolicy):
    """Words are stable a fixed time after they came up.

    Args:
        delay: seconds of audio.
    """

    def __init__(self, delay: float) -> None:
        super().__init__()
        self._delay = delay
        # How many words hypotheses had, and the seconds of audio that they were made of.
        self._counts: deque[tuple[float, int]] = deque([(0.0, 0)])

    def _judge(self, said: list[str], hypothesis: Hypothesis) -> int:
        self._counts.append((hypothesis.heard, len(said)))
        while len(self._counts) > 1 and self._counts[1][0] <= hypothesis.heard - self._delay + 1e-6:
            self._counts.popleft()
        return self._counts[0][1] if self._counts[0][0] <= hypothesis.heard - self._delay + 1e-6 else 0
