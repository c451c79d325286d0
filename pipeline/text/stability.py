"""When text of a running utterance is certain enough to stay: what all policies have in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# A word with the space before it. Scripts that write no spaces are cut into characters.
_WORD = re.compile(
    r"\s*(?:[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\u0e00-\u0e7f]|"
    r"[^\s\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\u0e00-\u0e7f]+)"
)


def words(text: str) -> list[str]:
    """The words of a text, each with the space before it: joined they are the text without its last space."""
    return _WORD.findall(text)


def common_prefix(texts: Iterable[Sequence[str]]) -> int:
    """How many words all of the texts begin with."""
    length = 0
    for alike in zip(*texts, strict=False):
        if len(set(alike)) > 1:
            break
        length += 1
    return length


@dataclass(frozen=True)
class Hypothesis:
    """What an utterance may say, as far as it has been heard.

    Args:
        text: a transcript or a translation.
        heard: seconds of the utterance's audio that it was made of.
        reach: for each word of the text, up to which second of that audio it rests on what was heard there;
            empty where nobody knows.
    """

    text: str
    heard: float = 0.0
    reach: Sequence[float] = ()


class StabilityPolicy(ABC):
    """The stable part of a text that is guessed anew again and again.

    Stable text only grows. The last word of the newest hypothesis is never made stable, however often it
    came: it may be the beginning of a longer one, and its full stop may only mean that no more was heard.
    """

    watches: bool = False
    """Whether the policy needs to know the ``reach`` of words."""

    def __init__(self) -> None:
        self._stable: list[str] = []

    @property
    def stable(self) -> str:
        """The stable text."""
        return "".join(self._stable)

    def begin(self, stable: str) -> None:
        """Begin with a text that is stable already."""
        self._stable = words(stable)

    def certain(self, hypothesis: Hypothesis) -> int:
        """Take the next hypothesis; returns how many of its words are certain, and makes none stable.

        Raises:
            ValueError: it does not begin with the stable text.
        """
        text = hypothesis.text
        if not text.startswith(self.stable):
            raise ValueError(f"the hypothesis {text!r} does not begin with {self.stable!r}")
        said = words(text)
        return max(len(self._stable), min(self._judge(said, hypothesis), len(said) - 1))

    def extend(self, text: str, count: int) -> None:
        """Make the first ``count`` words of a hypothesis stable, unless more are."""
        if count > len(self._stable):
            self._stable = words(text)[:count]

    @abstractmethod
    def _judge(self, said: list[str], hypothesis: Hypothesis) -> int:
        """How many words, from the first on, are certain by the policy's own rule."""
