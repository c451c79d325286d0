"""Ruts: a decoder that says the same again and again is stopped where it begins to."""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST_PATTERN = 12
"""Most words of what is repeated."""

REPEATS = {1: 5, 2: 4}
"""How often a pattern of so many words comes in a row before that is a rut; speakers do say "no, no, no"."""

LONG_REPEATS = 3
"""The same for longer patterns."""

# Within a word: anything of up to 6 characters eight times in a row.
_STUTTER = re.compile(r"(.{1,6}?)\1{7,}")


def without_rut(said: Sequence[str]) -> list[str]:
    """The words up to the first rut, of which the pattern is kept once.

    Args:
        said: words as :func:`pipeline.text.stability.words` cuts them.
    """
    plain = [word.strip().casefold() for word in said]
    for at, word in enumerate(plain):
        if _STUTTER.search(word) and any(character.isalpha() for character in word):
            return list(said[:at])
        for length in range(1, min(LONGEST_PATTERN, (len(said) - at) // 2) + 1):
            repeats = REPEATS.get(length, LONG_REPEATS)
            pattern = plain[at : at + length]
            if all(plain[at + n * length : at + (n + 1) * length] == pattern for n in range(1, repeats)):
                return list(said[: at + length])
    return list(said)
