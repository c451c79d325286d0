"""Recorded voices of other languages read: espeak-ng's phonemes become phones that they have.

Few speakers of Spanish and Portuguese are among the engines, and a model that heard few voices understands
few. Czech, Finnish and Italian have the five vowels of Spanish and its rolled r; what they lack becomes what
their speakers would say instead, nasal vowels a vowel and an n. French is for the Finnish voices alone: the
others have no rounded front vowels. Phonemes and durations are those of espeak-ng
(``docs/phonemes.md`` there), phones those of Festival's ``czech``, ``suopuhe`` and ``italian`` phone sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

PAUSES = frozenset({"_", "_:", "_!", "_|", "_^_"})
_SHORTEST = 0.02

_VOWELS = {"a": "a", "e": "e", "E": "e", "@": "e", "i": "i", "o": "o", "O": "o", "u": "u"}
_SAME = {name: name for name in ("p", "t", "k", "b", "d", "g", "f", "s", "m", "n", "l", "r", "j")}

_CZECH: Mapping[str, str] = {
    **_VOWELS,
    **_SAME,
    **{"B": "b", "D": "d", "Q": "g", "N": "n*", "n^": "n~", "l^": "j", "J^": "d~", "x": "ch", "T": "s"},
    **{"R2": "r r", "*": "r", "**": "r", ";": "j", "w": "u", "z": "z", "S": "s~", "tS": "c~", "ts": "c"},
    **{"dZ": "d~", "v": "v", "h": "h", "@-": ""},
    **{"aI": "a j", "eI": "e j", "oI": "o j", "aU": "a u", "eU": "e u"},
}
_FINNISH: Mapping[str, str] = {
    **_VOWELS,
    **_SAME,
    **{"B": "v", "D": "d", "Q": "g", "N": "N", "n^": "n j", "l^": "l j", "J^": "j", "x": "h", "T": "s"},
    **{"R2": "r:", "*": "r", "**": "r", ";": "j", "w": "u", "z": "s", "S": "S", "tS": "t s", "ts": "t s"},
    **{"dZ": "d j", "v": "v", "h": "h", "@-": ""},
    **{"aI": "a i", "eI": "e i", "oI": "o i", "aU": "a u", "eU": "e u"},
}
_ITALIAN: Mapping[str, str] = {
    **_VOWELS,
    **_SAME,
    **{"E": "E", "O": "O", "n^": "J", "l^": "L", "*": "r", ";": "j", "w": "w", "z": "z", "Z": "Z", "S": "S"},
    **{"tS": "tS", "dZ": "dZ", "v": "v", "h": "r", "@-": ""},
    **{"aI": "a j", "eI": "e j", "oI": "o j", "aU": "a w", "eU": "e w"},
}
_OF_ITALIAN = {"I": "i", "U": "u", "w2": "u", "d[": "d"}
_OF_PORTUGUESE = {
    **{"&": "a", "A": "a", "y": "i", "U": "u", "N": "n", "s#": "s", "r-": "r", "R": "r"},
    **{"&~": "a n", "o~": "o n", "u~": "u n"},
}

CZECH: Mapping[str, Mapping[str, str]] = {
    "es": _CZECH,
    "it": {
        **{
            **_CZECH,
            **_OF_ITALIAN,
            "R": "r r",
            "ss": "s s",
            "l^": "l j",
            "ts2": "c",
            "dz": "dz",
            "dZ": "dz~",
        },
    },
    "pt": {
        **{**_CZECH, **_OF_PORTUGUESE, "Z": "z~", "l^": "l j", "dZ": "dz~", "&U~": "a n u", "uI": "u j"},
        **{"iU": "i u", "EI": "e j", "EU": "e u"},
    },
}
"""Phones of Festival's Czech voices by the language that they read and its phoneme."""

FINNISH: Mapping[str, Mapping[str, str]] = {
    "es": _FINNISH,
    "fr": {
        **{**_FINNISH, "E": "@", "@": "7", "@-": "7", "y": "y", "Y": "7", "W": "7", "y-": "y", "a-": "a"},
        **{"A~": "a n", "O~": "o n", "E~": "@ n", "W~": "7 n", "e-": "e", "I": "i", "z2": "s", "t2": "t"},
        **{"p2": "p", "Z": "S"},
    },
    "it": {
        **{**_FINNISH, **_OF_ITALIAN, "R": "r:", "ss": "s s", "ts2": "t s", "dz": "d s", "tS": "t S"},
        **{"dZ": "d S"},
    },
    "pt": {
        **{**_FINNISH, **_OF_PORTUGUESE, "Z": "S", "tS": "t S", "dZ": "d S", "&U~": "a n u", "uI": "u i"},
        **{"iU": "i u", "EI": "e i", "EU": "e u"},
    },
}
"""Phones of Festival's Finnish voices, see :data:`CZECH`."""

ITALIAN: Mapping[str, Mapping[str, str]] = {
    "pt": {
        **{**_ITALIAN, **_OF_PORTUGUESE, "x": "r", "&U~": "a n w", "uI": "u j", "iU": "i w", "EI": "E j"},
        **{"EU": "E w"},
    },
}
"""Phones of Festival's Italian voices, see :data:`CZECH`."""


def segments(
    phonemes: Sequence[tuple[str, float]], phones: Mapping[str, str], pitch: float, random: Random
) -> str | None:
    """An utterance as Festival takes it: phones with durations and a pitch that falls and wavers.

    Args:
        phonemes: names and seconds, see :meth:`pipeline.training.libraries.Espeak.phonemes`.
        phones: of one language, from one of the tables above.
        pitch: of the voice, in Hz.
        random: what wavers.

    Returns:
        A Scheme list for ``(Utterance Segments ...)``; None if a phoneme has no phone.
    """
    total = sum(seconds for _, seconds in phonemes) or 1.0
    fall, waver = random.uniform(0.1, 0.4), random.uniform(0.02, 0.1)
    parts, at = ["(# 0.1)"], 0.0
    for name, seconds in phonemes:
        if name in PAUSES:
            if seconds > _SHORTEST:
                parts.append(f"(# {seconds:.3f})")
            at += seconds
            continue
        if name not in phones:
            return None
        spoken = phones[name].split()
        for phone in spoken:
            length = max(seconds / len(spoken), _SHORTEST)
            hertz = pitch * (1 + fall * (0.5 - at / total)) * random.uniform(1 - waver, 1 + waver)
            parts.append(f"({phone} {length:.3f} ({length / 2:.3f} {hertz:.0f}))")
            at += length
    return f"({' '.join(parts)} (# 0.1))"
