"""Where a text can be parted: behind sentences, behind clauses, between words."""

from __future__ import annotations

import enum
from collections.abc import Sequence

# Western, Arabic, Indic and full-width marks; escaped where they look like others.
_CLOSING = "\"'»”\u2019)]}」』"
_SENTENCE_ENDS = tuple(".?!…。\uff1f\uff01।؟")
_CLAUSE_ENDS = tuple(",;:—\u2013،、\uff0c\uff1b\uff1a")


class Urgency(enum.IntEnum):
    """How much there is to be said for parting a text now."""

    SENTENCE, CLAUSE, ANYWHERE = range(3)


def ends_sentence(word: str) -> bool:
    """Whether a word is the last one of a sentence."""
    return word.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)


def ends_clause(word: str) -> bool:
    """Whether a word is the last one of a clause that does not end its sentence."""
    return word.rstrip(_CLOSING).endswith(_CLAUSE_ENDS)


def sentence_end(said: Sequence[str], number: int) -> int | None:
    """How many words the first ``number`` sentences have; None where there are not so many ends."""
    ends = [at + 1 for at, word in enumerate(said) if ends_sentence(word)]
    return ends[number - 1] if number <= len(ends) else None


def split(said: Sequence[str]) -> list[str]:
    """The sentences of a text, given by its words; what has no end at its end is one, too."""
    sentences, begin = [], 0
    for at, word in enumerate(said, 1):
        if ends_sentence(word) or at == len(said):
            sentences.append("".join(said[begin:at]).strip())
            begin = at
    return sentences


def place_to_part(said: Sequence[str], shown: int, certain: int, urgency: Urgency) -> int | None:
    """Where to part a text whose beginning is to be final.

    Args:
        said: its words.
        shown: how many of them have been shown as stable: these cannot be in another text any more.
        certain: how many are certain. At least one word that is certain stays behind the place, so that what
            comes behind it is known to begin with that, and neither lost nor said twice.
        urgency: whether to wait for the end of a sentence.

    Returns:
        How many words come before the place, at least 1; None where there is no such place yet.
    """
    places = range(certain - 1, max(shown, 1) - 1, -1)
    for at in places:
        if ends_sentence(said[at - 1]):
            return at
    if urgency >= Urgency.CLAUSE:
        for at in places:
            if ends_clause(said[at - 1]):
                return at
    return next(iter(places), None) if urgency >= Urgency.ANYWHERE else None
