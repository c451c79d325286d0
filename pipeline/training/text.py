"""Sentence pairs: read, cleaned, and split from what is held out.

Input files are UTF-8 ``source<TAB>target`` lines, gzipped, named ``<set>.<source>-<target>.tsv.gz``; the
bundled model's come from Tatoeba (CC BY 2.0 FR, tatoeba.org, as prepared by manythings.org/anki) and TICO-19
(CC0).
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections.abc import Iterable
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
_ALLOWED = re.compile(r"[A-Za-zÁÉÍÓÚÜÑÇáéíóúüñçàèìòùâêîôûäëïöÀÈ0-9 .,;:!?¡¿'\"()%$€/&-]+")
LONGEST = 220
"""Characters of the longest sentence that is used, about 16 s of speech."""


@dataclass(frozen=True)
class Pair:
    """A sentence and its translation."""

    source: str
    target: str

    def reversed(self) -> Pair:
        """The other direction."""
        return Pair(self.target, self.source)


def clean(text: str) -> str:
    """Typographic quotes, dashes and spaces in their plain forms, white space collapsed, NFC."""
    return " ".join(unicodedata.normalize("NFC", text).translate(_REPLACED).split())


def fingerprint(text: str) -> str:
    """Lower-case words without punctuation: two sentences that sound the same have the same one."""
    return " ".join(re.findall(r"\w+", text.lower()))


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of one file, cleaned, but for those too long or with signs outside the model's alphabet."""
    pairs = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            columns = line.rstrip("\n").split("\t")
            if len(columns) < 2:
                continue
            pair = Pair(clean(columns[0]), clean(columns[1]))
            if all(
                0 < len(side) <= LONGEST and _ALLOWED.fullmatch(side) and re.search(r"[A-Za-z]", side)
                for side in (pair.source, pair.target)
            ):
                pairs.append(pair)
    return pairs


def without(pairs: Iterable[Pair], held_out: Iterable[Pair]) -> list[Pair]:
    """``pairs`` that share neither side with a held-out pair (by :func:`fingerprint`)."""
    seen = {fingerprint(side) for pair in held_out for side in (pair.source, pair.target)}
    return [
        pair
        for pair in pairs
        if fingerprint(pair.source) not in seen and fingerprint(pair.target) not in seen
    ]


def load(folder: Path, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and held-out pairs, Spanish to English, shuffled with ``seed``.

    A sentence with several translations keeps each of them; exact doubles are dropped.

    Raises:
        FileNotFoundError: a file named in the module's docstring is missing.
    """
    held_out = read_pairs(folder / "split-dev.es-en.tsv.gz")
    pairs = read_pairs(folder / "split-train.es-en.tsv.gz")
    tico = folder / "tico19.es-en.tsv.gz"
    if tico.exists():
        pairs += read_pairs(tico)
    training = sorted(set(without(pairs, held_out)), key=lambda pair: (pair.source, pair.target))
    Random(seed).shuffle(training)
    return training, held_out
