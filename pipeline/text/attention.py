"""AlignAtt: stable is what the decoder says while it attends to audio that is old enough.

Papi et al. 2023, *AlignAtt: Using Attention-based Audio-Translation Alignments as a Guide for Simultaneous
Speech Translation*, arXiv:2305.11408. A word that rests on the newest audio may turn out another one when its
end is heard; one that rests on earlier audio is believed at once, without waiting for a second hypothesis.
"""

from __future__ import annotations

from pipeline.text.stability import Hypothesis, StabilityPolicy


class AlignAtt(StabilityPolicy):
    """Words are stable up to the first that attends to the newest audio.

    Args:
        newest: seconds of audio, at the end of what was heard, that are not old enough.
    """

    watches = True

    def __init__(self, newest: float) -> None:
        super().__init__()
        self._newest = newest

    def _judge(self, said: list[str], hypothesis: Hypothesis) -> int:
        old_enough = hypothesis.heard - self._newest + 1e-6
        young = (at for at, reach in enumerate(hypothesis.reach) if reach > old_enough)
        return next(young, len(hypothesis.reach))
