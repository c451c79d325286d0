"""``python -m pipeline.training.sources``: sentences of other kinds than those of everyday.

People read and say what no collection of example sentences holds: long sentences, rare words. A model that
knows everyday sentences alone hears these in everything. So there is literary text, and there are sentences
of words drawn at random, which teach nothing but how words are spelled that sound like this:

- ``bible.es-en``: the Reina-Valera of 1909 beside the World English Bible, both in the public domain (Debian
  packages ``sword-text-sparv`` and ``sword-text-web``, read with pysword);
- ``words.XX-en``: words of each language and of English by wordfreq (Speer 2022, CC BY-SA 4.0), a half of
  them as often as they are used, the others all alike.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import itertools
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from pipeline.training.text import ENGLISH, LANGUAGES, alphabet

Row = tuple[str, str]
"""A sentence and its English; one of them may be empty."""

SWORD_FOLDER = Path("/usr/share/sword")
KNOWN_WORDS = 40_000
"""Most frequent words that are drawn from; those behind them are names and mistakes for the most part."""
WORDS = 3, 14
"""Words of a sentence, at least and at most."""

_OLD = {"á": "a", "é": "e", "ó": "o", "ú": "u", "fué": "fue", "fuí": "fui", "dió": "dio", "vió": "vio"}
"""Spanish spelling before and after the reforms of 1911 and 1952."""


def verses(sword: Path) -> Iterator[Row]:
    """Spanish verses with their English, where both Bibles count them alike.

    Args:
        sword: folder of SWORD modules.

    Raises:
        OSError: pysword or one of the two modules is not installed.
    """
    modules = _installed("pysword.modules").SwordModules(str(sword))
    found = modules.parse_modules()
    missing = [name for name in ("spaRV1909eb", "engWEB2015eb") if name not in found]
    if missing:
        raise OSError(f"{sword}: no module {' nor '.join(missing)}")
    spanish, english = (modules.get_bible_from_module(name) for name in ("spaRV1909eb", "engWEB2015eb"))
    others = {book.name: book for books in english.get_structure().get_books().values() for book in books}
    for books in spanish.get_structure().get_books().values():
        for book in books:
            other = others[book.name]
            for chapter in range(1, min(book.num_chapters, other.num_chapters) + 1):
                if book.chapter_lengths[chapter - 1] != other.chapter_lengths[chapter - 1]:
                    continue
                where = {"books": [book.name], "chapters": [chapter], "clean": False}
                pair = zip(spanish.get_iter(**where), english.get_iter(**where), strict=True)
                yield from ((modern(plain(one)), plain(two)) for one, two in pair)


def plain(verse: str) -> str:
    """A verse without its markup, notes and headings, in OSIS."""
    bare = re.sub(r"<(note|title)\b.*?</\1>", " ", verse, flags=re.DOTALL)
    text = " ".join(re.sub(r"<[^>]*>", " ", bare).split())
    return re.sub(r" (?=[,.;:!?\u2019\u201d])|(?<=[\u201c\u2018¿¡]) ", "", text)


def modern(verse: str) -> str:
    """A Spanish verse of 1909 as it would be spelled today, its first word not in capitals."""
    words = [_OLD.get(word, word) for word in re.findall(r"\w+|\W+", verse)]
    return re.sub(r"^\W*[A-ZÁÉÍÓÚÑ]{2,}\b", lambda first: first[0].capitalize(), "".join(words))


def drawn_words(language: str, count: int, random: Random) -> Iterator[str]:
    """Sentences of words drawn at random.

    Args:
        language: ISO 639-1 code.
        count: how many.
        random: which words.

    Raises:
        OSError: wordfreq is not installed.
    """
    library = _installed("wordfreq")
    letters = {*alphabet([language])} - {*string.digits, " "}
    known = [word for word in library.top_n_list(language, KNOWN_WORDS) if letters.issuperset(word)]
    often = list(itertools.accumulate(library.word_frequency(word, language) for word in known))
    for _ in range(count):
        words = [
            random.choices(known, cum_weights=often)[0] if random.random() < 0.5 else random.choice(known)
            for _ in range(random.randint(*WORDS))
        ]
        text = " ".join(words)
        yield f"{text[0].upper()}{text[1:]}."


def _installed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise OSError(f"the Python package {module.split('.', maxsplit=1)[0]} is not installed") from error


def _write(path: Path, rows: Iterable[Row]) -> int:
    # All of them first: what a failure left would be taken for a small set.
    lines = [f"{one}\t{two}\n" for one, two in rows]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(lines)
    return len(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Write further sets of sentences into the folder of the text; see docs/training.md."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.training.sources", description=main.__doc__)
    parser.add_argument("out", type=Path, help="folder with split-{train,dev}.XX-en.tsv.gz")
    parser.add_argument("--sword", type=Path, default=SWORD_FOLDER, help="folder of SWORD modules")
    parser.add_argument("--words", type=int, default=25_000, help="sentences of words for each language")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)

    others = [code for code in LANGUAGES if code != ENGLISH]
    options.out.mkdir(parents=True, exist_ok=True)
    sets: dict[str, Callable[[], Iterable[Row]]] = {"bible.es-en": partial(verses, options.sword)}
    for code in others:
        sets[f"words.{code}-en"] = partial(_words, code, options.words, options.seed, len(others))
    try:
        for name, rows in sets.items():
            print(f"{name}: {_write(options.out / f'{name}.tsv.gz', rows())} sentences")
    except OSError as error:
        parser.error(str(error))


def _words(code: str, count: int, seed: int, languages: int) -> Iterator[Row]:
    """Of a language, and of English its part of as many."""
    random = Random(f"{seed}-{code}")
    yield from ((text, "") for text in drawn_words(code, count, random))
    yield from (("", text) for text in drawn_words(ENGLISH, count // languages, random))


if __name__ == "__main__":
    main()
