"""Sentence pairs: read, cleaned, and split from what is held out.

One side of every pair is English. Input files are UTF-8 ``sentence<TAB>English`` lines, gzipped, named
``<set>.<language>-en.tsv.gz``; the bundled model's come from Tatoeba (CC BY 2.0 FR, tatoeba.org, as prepared
by manythings.org/anki), TICO-19 (CC0), and from what :mod:`pipeline.training.sources` writes. Where nobody
translated a sentence, the other column is empty: it teaches to hear, and not to translate.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

_REPLACED = str.maketrans(
    {
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{DOUBLE LOW-9 QUOTATION MARK}": '"',
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{HORIZONTAL ELLIPSIS}": "...",
        "\N{EN DASH}": "-",
        "\N{EM DASH}": "-",
        "\N{NO-BREAK SPACE}": " ",
        "\N{NARROW NO-BREAK SPACE}": " ",
    }
)
ENGLISH = "en"
LANGUAGES = ("es", "fr", "it", "pt", "en")
"""Those that there are text and voices of."""
_SIGNS = "A-Za-zÁÉÍÓÚÜÑÇáéíóúüñçàèìòùâêîôûäëïöÀÈ0-9 .,;:!?¡¿'\"()%$€/&-"
_FURTHER_SIGNS = {"es": "", "fr": "ŒœÆæÊÂÎÔÛÙËÏŸÿ«»", "it": "ÌÒÙ", "pt": "ãõÃÕÂÊÔ"}
"""Signs of the alphabet by language, beside those that all languages are written with."""
_LETTERS = {"en": "", "es": "áéíóúüñ", "fr": "àâæçèéêëîïôœùûüÿ", "it": "àèéìíîòóùú", "pt": "àáâãçéêíóôõúü"}
LONGEST = 220
"""Characters of the longest sentence that is used, about 16 s of speech."""


FURTHER_SETS = ("tico19", "bible", "words")
"""What is trained on beside ``split-train``, where it is there."""

EVENNESS = 0.3
"""Exponent of a language's amount of text in its share: with 1 shares are amounts, with 0 all alike."""


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation, either of which may be missing: ``""``.

    Args:
        source: the sentence.
        target: the same in English.
        language: of the sentence, an ISO 639-1 code.
    """

    source: str
    target: str
    language: str

    @property
    def sides(self) -> list[str]:
        """Those that are there."""
        return [side for side in (self.source, self.target) if side]

    @property
    def whole(self) -> bool:
        """Whether both sides are there."""
        return len(self.sides) == 2

    def side(self, language: str) -> str:
        """The sentence in ``language``, which is its own or English."""
        return self.target if language == ENGLISH else self.source

    def turned(self, language: str) -> tuple[str, str, str]:
        """What a speaker of ``language`` says, into which one it is translated, and the translation."""
        if language == ENGLISH:
            return self.target, self.language, self.source
        return self.source, ENGLISH, self.target


def clean(text: str) -> str:
    """Typographic quotes, dashes and spaces in their plain forms, white space collapsed, NFC."""
    return " ".join(unicodedata.normalize("NFC", text).translate(_REPLACED).split())


def fingerprint(text: str) -> str:
    """Lower-case words without punctuation: two sentences that sound the same have the same one."""
    return " ".join(re.findall(r"\w+", text.lower()))


def alphabet(languages: Iterable[str]) -> str:
    """What the words of ``languages`` are spelled with: letters, digits, the apostrophe and the space."""
    accented = dict.fromkeys("".join(_LETTERS[language] for language in languages))
    return f"abcdefghijklmnopqrstuvwxyz{''.join(accented)}0123456789' "


def read_pairs(path: Path, language: str) -> list[Pair]:
    """All pairs of one file, cleaned, but for those too long or with signs outside the language's alphabet.

    One of the sides may be empty.

    Args:
        path: the file.
        language: of its first column; the second one is English.
    """
    allowed = re.compile(f"[{_FURTHER_SIGNS[language]}{_SIGNS}]+")
    pairs = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            columns = line.rstrip("\n").split("\t")
            if len(columns) < 2:
                continue
            pair = Pair(clean(columns[0]), clean(columns[1]), language)
            if pair.sides and all(
                len(side) <= LONGEST and allowed.fullmatch(side) and re.search(r"[A-Za-z]", side)
                for side in pair.sides
            ):
                pairs.append(pair)
    return pairs


def without(pairs: Iterable[Pair], held_out: Iterable[Pair]) -> list[Pair]:
    """``pairs`` that share neither side with a held-out pair (by :func:`fingerprint`)."""
    seen = {fingerprint(side) for pair in held_out for side in pair.sides}
    return [pair for pair in pairs if not any(fingerprint(side) in seen for side in pair.sides)]


def load(folder: Path, languages: Sequence[str], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs, language by language, those of each shuffled with ``seed``.

    A sentence with several translations keeps each of them; exact doubles are dropped. What is held out of
    one language is held out of all, which share their English.

    Args:
        folder: with the files named in the module's docstring.
        languages: ISO 639-1 codes; English is one side of every pair, whether it is among them or not.
        seed: of the order.

    Raises:
        FileNotFoundError: a file is missing; those of :data:`FURTHER_SETS` may be.
    """
    others = [language for language in languages if language != ENGLISH]
    held_out = [pair for code in others for pair in read_pairs(folder / f"split-dev.{code}-en.tsv.gz", code)]
    training: list[Pair] = []
    for code in others:
        pairs = read_pairs(folder / f"split-train.{code}-en.tsv.gz", code)
        further = [folder / f"{name}.{code}-en.tsv.gz" for name in FURTHER_SETS]
        pairs += [pair for path in further if path.exists() for pair in read_pairs(path, code)]
        kept = sorted(set(without(pairs, held_out)), key=lambda pair: (pair.source, pair.target))
        Random(seed).shuffle(kept)
        training += kept
    return training, held_out


def by_language(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Indices of the pairs of each language, those with a side missing among them."""
    indices: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        indices.setdefault(pair.language, []).append(index)
    return indices


def shares(amounts: Mapping[str, int]) -> dict[str, float]:
    """How often each language is drawn, by how much text there is of it.

    A language with little text is drawn more often than its amount, or the model would hardly learn it, and
    less often than the others, or it would learn its sentences by heart ("temperature sampling", Arivazhagan
    et al. 2019).
    """
    weights = {language: amount**EVENNESS for language, amount in amounts.items()}
    total = sum(weights.values())
    return {language: weight / total for language, weight in weights.items()}
