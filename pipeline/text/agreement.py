"""How much of a hypothesis is certain: local agreement over words.

LocalAgreement-n (Liu et al. 2020, *Low-latency sequence-to-sequence speech recognition and translation by
partial hypothesis selection*, arXiv:2005.11185): what n hypotheses in a row begin with alike is stable.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

# A word with the space before it. Scripts that write no spaces are cut into characters.
_WORD = re.compile(
    r"\s*(?:[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\u0e00-\u0e7f]|"
    r"[^\s\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\u0e00-\u0e7f]+)"
)


def words(text: str) -> list[str]:
    """The words of a text, each with the space before it: joined they are the text without its last space."""
    return _WORD.findall(text)


class LocalAgreement:
    """The stable part of a text that is guessed anew again and again.

    Stable text only grows. The last word of the newest hypothesis is never made stable, however often it
    came: it may be the beginning of a longer one, and its full stop may only mean that no more was heard.

    Args:
        agreement: n, how many hypotheses in a row have to agree; at least 1.
    """

    def __init__(self, agreement: int) -> None:
        if agreement < 1:
            raise ValueError(f"at least 1 hypothesis has to agree, got {agreement}")
        self._last: deque[list[str]] = deque(maxlen=agreement)
        self._stable: list[str] = []

    @property
    def stable(self) -> str:
        """The stable text."""
        return "".join(self._stable)

    def push(self, hypothesis: str) -> str:
        """Take the next hypothesis, which begins with the stable text; returns what is tentative of it.

        Raises:
            ValueError: it does not begin with the stable text.
        """
        if not hypothesis.startswith(self.stable):
            raise ValueError(f"the hypothesis {hypothesis!r} does not begin with {self.stable!r}")
        self._last.append(words(hypothesis))
        if len(self._last) == self._last.maxlen:
            agreed = _common_prefix(self._last)
            certain = min(agreed, len(self._last[-1]) - 1)
            if certain > len(self._stable):
                self._stable = self._last[-1][:certain]
        return hypothesis[len(self.stable) :]


def _common_prefix(hypotheses: Sequence[Sequence[str]]) -> int:
    length = 0
    for alike in zip(*hypotheses, strict=False):
        if len(set(alike)) > 1:
            break
        length += 1
    return length
