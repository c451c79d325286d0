"""Spanish in Italian spelling, for Italian voices.

Both languages write nearly what they say and share most sounds; stress is marked on every word, because
the two place it differently. The sounds that Italian lacks decide what can be read at all: a sentence with
the ``j`` of *jefe* is refused, the ``z`` of *cena* becomes the American ``s``.
"""

from __future__ import annotations

import re
import unicodedata

_VOWELS = "aeiouáéíóúü"
_STRESSED = str.maketrans("aeiou", "àèìòù")
_PLAIN = str.maketrans("áéíóúü", "aeiouu")
_RULES = (
    (r"qu(?=[eiéí])", "k"),
    (r"gu(?=[eiéí])", "G"),
    (r"gü", "Gu"),
    (r"g(?![eiéí])", "G"),
    (r"ü", "u"),
    (r"ch", "C"),
    (r"c(?=[eiéí])", "S"),
    (r"[cq]", "k"),
    (r"z", "S"),
    (r"ll|y(?=[aeiouáéíóú])", "L"),
    (r"y", "i"),
    (r"ñ", "N"),
    (r"h", ""),
    (r"v", "b"),
    (r"x", "ks"),
    (r"w", "u"),
    (r"(?<=[aeiouáéíóú])s(?=[aeiouáéíóú])", "S"),
)
_ITALIAN = {"S": "ss", "N": "gn"}


def italian_spelling(text: str) -> str | None:
    """``text`` spelled for an Italian reader; None when it has sounds or signs that Italian cannot say."""
    text = unicodedata.normalize("NFC", text.lower())
    if re.search(r"j|g[eiéí]|\d|[^\W\d_a-zñáéíóúü]", text):
        return None
    spelled = re.sub(r"[a-zñáéíóúü]+", lambda match: _word(match.group()), text)
    return re.sub(r"[¿¡«»\"()]", "", spelled).strip() or None


def _word(word: str) -> str:
    stressed = _stress(word)
    for pattern, by in _RULES:
        if stressed is not None:
            # The stress mark travels with its vowel: rules see accented letters as vowels.
            word = word[:stressed] + _accented(word[stressed]) + word[stressed + 1 :]
            stressed = None
        word = re.sub(pattern, by, word)
    return _italian(word)


def _accented(vowel: str) -> str:
    return vowel.translate(str.maketrans("aeiou", "áéíóú"))


def _stress(word: str) -> int | None:
    """Index of the stressed vowel: by the accent or else by the ending (*Ortografía* of the RAE, II.3)."""
    accent = re.search(r"[áéíóú]", word)
    if accent:
        return accent.start()
    nuclei = [
        match.end() - 1 if _second_is_stressed(match.group()) else match.start()
        for match in re.finditer(r"[iuü]?[aeo][iuy]?|[iuü]+", re.sub(r"(?<=[qg])u(?=[ei])", "-", word))
    ]
    if not nuclei:
        return None
    last = word[-1] in _VOWELS or word[-1] in "ns"
    return nuclei[-2] if last and len(nuclei) > 1 else nuclei[-1]


def _second_is_stressed(nucleus: str) -> bool:
    return len(nucleus) > 1 and (nucleus[-1] in "aeo" or set(nucleus) <= set("iuü"))


def _italian(word: str) -> str:
    out = []
    for index, letter in enumerate(word):
        after = word[index + 1] if index + 1 < len(word) else ""
        front = after in "eiéí" and after != ""
        if letter == "k":
            out.append("ch" if front else "c")
        elif letter == "G":
            out.append("gh" if front else "g")
        elif letter == "C":
            out.append("c" if front else "ci")
        elif letter == "L":
            out.append("gl" if after in "ií" and after else "gli")
        elif letter == "S" and (index == 0 or word[index - 1] not in _VOWELS):
            out.append("s")
        else:
            out.append(_ITALIAN.get(letter, letter))
    accented = "".join(out)
    return re.sub(r"[áéíóú]", lambda match: match.group().translate(_PLAIN).translate(_STRESSED), accented)
