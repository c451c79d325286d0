"""Further sentences: verses as they are spelled today beside their English, and words drawn at random."""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from pipeline.training import sources
from pipeline.training.text import read_pairs

KNOWN = ["de", "que", "muchedumbre", "balbuciente", "r00", "œuf", "c++"]


class Bible:
    """Stands in for a module as pysword reads it: one book, whose chapters have verses."""

    def __init__(self, *chapters: list[str]) -> None:
        self._chapters = chapters
        self._book = SimpleNamespace(
            name="Genesis", num_chapters=len(chapters), chapter_lengths=[len(verses) for verses in chapters]
        )

    def get_structure(self) -> SimpleNamespace:
        return SimpleNamespace(get_books=lambda: {"ot": [self._book]})

    def get_iter(self, books: list[str], chapters: list[int], *, clean: bool) -> list[str]:
        assert books == ["Genesis"]
        assert not clean
        return self._chapters[chapters[0] - 1]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Bible]:
    """Stand-ins of the two packages, and the Bibles of the one."""
    bibles = {
        "spaRV1909eb": Bible(["EN el principio crió Dios.", "Y fué la luz á la noche."], ["Sobra."]),
        "engWEB2015eb": Bible(
            [
                "<title>One</title>In the beginning, God<note>Or, <i>a</i> god</note> created.",
                "There <w>was</w> light.",
            ],
            ["One.", "Too many."],
        ),
    }
    modules = SimpleNamespace(parse_modules=lambda: bibles, get_bible_from_module=bibles.__getitem__)
    monkeypatch.setitem(sys.modules, "pysword", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pysword.modules", SimpleNamespace(SwordModules=lambda path: modules))
    words = SimpleNamespace(
        top_n_list=lambda language, count: KNOWN[:count],
        word_frequency=lambda word, language: 0.9 if word == "de" else 0.01,
    )
    monkeypatch.setitem(sys.modules, "wordfreq", words)
    return bibles


@pytest.mark.usefixtures("installed")
def test_verses_stand_beside_their_english_where_both_count_alike(tmp_path):
    assert list(sources.verses(tmp_path)) == [
        ("En el principio crió Dios.", "In the beginning, God created."),
        ("Y fue la luz a la noche.", "There was light."),
    ]


def test_a_bible_that_is_not_there_is_named(installed, tmp_path):
    del installed["spaRV1909eb"]
    with pytest.raises(OSError, match="no module spaRV1909eb"):
        list(sources.verses(tmp_path))


def test_a_verse_is_plain_text():
    assert sources.plain("<q>Let there be</q>\n<note>x</note>, he said , <lb/>“ light ”.") == (
        "Let there be, he said, “light”."
    )
    assert sources.plain("¿ Será éste ?") == "¿Será éste?"


def test_words_keep_what_accents_tell_apart():
    assert sources.modern("Y DIÓ él á ella más, ó está.") == "Y DIÓ él a ella más, o está."
    assert sources.modern("JEHOVÁ dió.") == "Jehová dio."


@pytest.mark.usefixtures("installed")
def test_half_of_the_words_come_as_often_as_they_are_used():
    """And none that the language has no letters for."""
    drawn = list(sources.drawn_words("es", 500, Random(1)))
    counts = Counter(word for text in drawn for word in text.lower().rstrip(".").split())
    often = counts["de"] / counts.total()

    assert counts.keys() == {"de", "que", "muchedumbre", "balbuciente"}
    assert often == pytest.approx(0.5 * 0.9 / 0.93 + 0.5 / 4, abs=0.03)
    assert all(text[0].isupper() and text.endswith(".") for text in drawn)
    assert {len(text.split()) for text in drawn} == set(range(3, 15))
    assert drawn == list(sources.drawn_words("es", 500, Random(1)))


@pytest.mark.usefixtures("installed")
def test_the_command_writes_what_training_reads(tmp_path: Path, capsys):
    sources.main([str(tmp_path / "text"), "--words", "8", "--sword", str(tmp_path)])

    assert capsys.readouterr().out.splitlines() == [
        "bible.es-en: 2 sentences",
        *(f"words.{code}-en: 10 sentences" for code in ("es", "fr", "it", "pt")),
    ]
    bible = read_pairs(tmp_path / "text/bible.es-en.tsv.gz", "es")
    words = read_pairs(tmp_path / "text/words.es-en.tsv.gz", "es")
    assert [pair.whole for pair in bible] == [True, True]
    assert sum(1 for pair in words if not pair.target) == 8
    assert sum(1 for pair in words if not pair.source) == 2
    with gzip.open(tmp_path / "text/words.fr-en.tsv.gz", "rt", encoding="utf-8") as file:
        assert "œuf" in file.read().lower()


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pysword", None)
    with pytest.raises(SystemExit) as ended:
        sources.main([str(tmp_path)])

    assert ended.value.code == 2
    assert "the Python package pysword is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
