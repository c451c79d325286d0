"""Recorded voices of other languages read Spanish: espeak-ng's phonemes become phones that they have.

Few Spanish speakers are among the engines, and a model that heard few voices understands few. Czech and
Finnish have the five vowels of Spanish and its rolled r; what they lack becomes what their speakers would say
instead. Phonemes and durations are those of espeak-ng (``docs/phonemes.md`` there), phones those of
Festival's ``czech`` and ``suopuhe`` phone sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

PAUSES = frozenset({"_", "_:", "_!", "_^_"})
_SHORTEST = 0.02

_VOWELS = {"a": "a", "e": "e", "E": "e", "@": "e", "i": "i", "o": "o", "O": "o", "u": "u"}
_SAME = {name: name for name in ("p", "t", "k", "b", "d", "g", "f", "s", "m", "n", "l", "r", "j")}

CZECH: Mapping[str, str] = {
    **_VOWELS,
    **_SAME,
    **{"B": "b", "D": "d", "Q": "g", "N": "n*", "n^": "n~", "l^": "j", "J^": "d~", "x": "ch", "T": "s"},
    **{"R2": "r r", "*": "r", "**": "r", ";": "j", "w": "u", "z": "z", "S": "s~", "tS": "c~", "ts": "c"},
    **{"dZ": "d~", "v": "v", "h": "h", "@-": ""},
    **{"aI": "a j", "eI": "e j", "oI": "o j", "aU": "a u", "eU": "e u"},
}
"""Phones of Festival's Czech voices by Spanish phoneme."""

FINNISH: Mapping[str, str] = {
    **_VOWELS,
    **_SAME,
    **{"B": "v", "D": "d", "Q": "g", "N": "N", "n^": "n j", "l^": "l j", "J^": "j", "x": "h", "T": "s"},
    **{"R2": "r:", "*": "r", "**": "r", ";": "j", "w": "u", "z": "s", "S": "S", "tS": "t s", "ts": "t s"},
    **{"dZ": "d j", "v": "v", "h": "h", "@-": ""},
    **{"aI": "a i", "eI": "e i", "oI": "o i", "aU": "a u", "eU": "e u"},
}
"""Phones of Festival's Finnish voices by Spanish phoneme."""


def segments(
    phonemes: Sequence[tuple[str, float]], phones: Mapping[str, str], pitch: float, random: Random
) -> str | None:
    """An utterance as Festival takes it: phones with durations and a pitch that falls and wavers.

    Args:
        phonemes: names and seconds, see :meth:`pipeline.training.libraries.Espeak.phonemes`.
        phones: one of the tables above.
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
