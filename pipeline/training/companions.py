"""Sentences that have a rare word in common: what was said before is of use where names and topics return.

The training text has no talks in it, only sentences. One that shares a name with what is said now stands for
those that a speaker said before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

from pipeline.training.text import ENGLISH, Pair, by_language, fingerprint

MOST = 40
"""Sentences that a word may stand in to be rare: it tells what they are about."""


class Companions:
    """Finds sentences that go together.

    Args:
        texts: the sentences of one language, by number.
    """

    def __init__(self, texts: Mapping[int, str]) -> None:
        self._texts = texts
        spoken = {index: set(fingerprint(text).split()) for index, text in texts.items()}
        often = Counter(word for words in spoken.values() for word in words)
        self._topic: dict[int, str] = {}
        self._about: dict[str, list[int]] = {}
        for index, words in spoken.items():
            rare = {word for word in words if 1 < often[word] <= MOST}
            if rare:
                self._topic[index] = min(rare, key=lambda word: (often[word], word))
            for word in rare:
                self._about.setdefault(word, []).append(index)

    def of(self, index: int, random: Random) -> str | None:
        """A sentence about the same as sentence ``index`` in other words; None if there is none."""
        topic = self._topic.get(index)
        if topic is None:
            return None
        other = self._texts[random.choice(self._about[topic])]
        return other if fingerprint(other) != fingerprint(self._texts[index]) else None


def companions(pairs: Sequence[Pair]) -> dict[str, Companions]:
    """Sentences that go together, by the language that they are spoken in and the numbers of their pairs."""
    texts = {
        language: {index: pairs[index].source for index in own if pairs[index].source}
        for language, own in by_language(pairs).items()
    }
    texts[ENGLISH] = {index: pair.target for index, pair in enumerate(pairs) if pair.target}
    return {language: Companions(some) for language, some in texts.items()}
