"""Local agreement: stable is what hypotheses in a row begin with alike.

LocalAgreement-n (Liu et al. 2020, *Low-latency sequence-to-sequence speech recognition and translation by
partial hypothesis selection*, arXiv:2005.11185).
"""

from __future__ import annotations

from collections import deque

from pipeline.text.stability import Hypothesis, StabilityPolicy, common_prefix


class LocalAgreement(StabilityPolicy):
    """What n hypotheses in a row begin with alike is stable.

    Args:
        agreement: n, how many hypotheses in a row have to agree; at least 1.
    """

    def __init__(self, agreement: int) -> None:
        super().__init__()
        if agreement < 1:
            raise ValueError(f"at least 1 hypothesis has to agree, got {agreement}")
        self._last: deque[list[str]] = deque(maxlen=agreement)

    def _judge(self, said: list[str], hypothesis: Hypothesis) -> int:
        self._last.append(said)
        return common_prefix(self._last) if len(self._last) == self._last.maxlen else 0
