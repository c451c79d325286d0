"""Sentence pairs: what is used of a file, and that nothing of the held-out text trains the model."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training import text
from pipeline.training.text import Pair

SPANISH = ("es", "en")


def write(path: Path, lines: list[tuple[str, ...]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines("\t".join(columns) + "\n" for columns in lines)


def shouted(sentence: str) -> str:
    return sentence.upper().rstrip(".?!") + " !"


@given(st.text())
def test_cleaning_twice_is_cleaning_once(sentence: str):
    once = text.clean(sentence)

    assert text.clean(once) == once
    assert once == " ".join(once.split())


def test_typographic_signs_become_plain_ones():
    assert text.clean("\u201cIt\u2019s\u00a0late\u201d\u2014he  said\u2026\n") == '"It\'s late"-he said...'
    assert text.clean("cafe\u0301") == "caf\u00e9"


def test_sentences_that_sound_the_same_have_one_fingerprint():
    assert text.fingerprint("¿Qué hora es?") == text.fingerprint("qué  hora es...")
    assert text.fingerprint("esta") != text.fingerprint("está")


def test_pairs_that_the_model_cannot_say_or_write_are_left_out(tmp_path: Path):
    path = tmp_path / "some.es-en.tsv.gz"
    write(
        path,
        [
            ("¿Dónde estás?", "Where are you?", "CC-BY"),
            ("only one column",),
            ("Nadie lo tradujo.", ""),
            ("", "Nobody translated it."),
            ("", ""),
            ("...", "It is only silence."),
            ("Habla 日本語.", "She speaks Japanese."),
            ("a" * (text.LONGEST + 1), "too long"),
            ("a" * text.LONGEST, "just short enough"),
        ],
    )

    assert text.read_pairs(path, "es") == [
        Pair("¿Dónde estás?", "Where are you?", "es"),
        Pair("Nadie lo tradujo.", "", "es"),
        Pair("", "Nobody translated it.", "es"),
        Pair("a" * text.LONGEST, "just short enough", "es"),
    ]


def test_languages_are_read_in_their_own_letters(tmp_path: Path):
    path = tmp_path / "some.XX-en.tsv.gz"
    write(path, [("Não é São João.", "It is not São João."), ("Un œuf.", "An egg.")])

    assert [pair.target for pair in text.read_pairs(path, "pt")] == ["It is not São João."]
    assert [pair.target for pair in text.read_pairs(path, "fr")] == ["An egg."]
    assert text.read_pairs(path, "es") == []


def test_letters_are_those_of_the_languages_once_each():
    spanish, both = text.alphabet(["es", "en"]), text.alphabet(["es", "pt", "en"])

    assert set(spanish) == set("abcdefghijklmnopqrstuvwxyzáéíóúüñ0123456789' ")
    assert len(both) == len(set(both))
    assert set(both) - set(spanish) == set("àâãçêôõ")
    assert all(letter.islower() or not letter.isalpha() for letter in text.alphabet(text.LANGUAGES))


def test_what_is_said_and_what_is_wanted_depend_on_who_speaks():
    pair = Pair("Bonjour.", "Hello.", "fr")

    assert pair.turned("fr") == ("Bonjour.", "en", "Hello.")
    assert pair.turned("en") == ("Hello.", "fr", "Bonjour.")
    assert (pair.side("fr"), pair.side("en")) == ("Bonjour.", "Hello.")


@given(st.dictionaries(st.sampled_from(text.LANGUAGES[:-1]), st.integers(1, 10**6), min_size=1))
def test_little_text_comes_more_often_than_its_amount_and_less_often_than_much(amounts: dict[str, int]):
    shares = text.shares(amounts)

    assert sum(shares.values()) == pytest.approx(1)
    for one, other in itertools.combinations(amounts, 2):
        less, more = sorted((one, other), key=amounts.__getitem__)
        ratio = shares[more] / shares[less]
        assert 1 - 1e-9 <= ratio <= amounts[more] / amounts[less] + 1e-9


@pytest.fixture
def folder(tmp_path: Path, spanish: list[Pair]) -> Path:
    """Every tenth pair is held out, but in disguise they are all in the training files too."""
    held_out, rest = spanish[::10], [pair for index, pair in enumerate(spanish) if index % 10]
    leaks = [(shouted(pair.source), "Something else.") for pair in held_out[::2]]
    leaks += [("Otra cosa.", shouted(pair.target)) for pair in held_out[1::2]]
    leaks += [(pair.target, pair.source) for pair in held_out]
    write(tmp_path / "split-dev.es-en.tsv.gz", [(pair.source, pair.target) for pair in held_out])
    write(tmp_path / "split-train.es-en.tsv.gz", [*((pair.source, pair.target) for pair in rest), *leaks])
    write(
        tmp_path / "tico19.es-en.tsv.gz", [*leaks, ("Tos seca.", "Dry cough."), ("Tos seca.", "A dry cough.")]
    )
    return tmp_path


def test_no_training_pair_shares_a_side_with_a_held_out_one(folder: Path):
    training, held_out = text.load(folder, SPANISH, seed=1)
    secret = {text.fingerprint(side) for pair in held_out for side in (pair.source, pair.target)}

    assert len(training) > 300
    assert not [
        pair
        for pair in training
        if text.fingerprint(pair.source) in secret or text.fingerprint(pair.target) in secret
    ]


def test_further_sets_are_read_where_they_are_and_nothing_else(folder: Path):
    write(folder / "bible.es-en.tsv.gz", [("", "Jesus wept.")])
    write(folder / "words.es-en.tsv.gz", [("Muchedumbre balbuciente de.", "")])
    write(folder / "flores200-devtest.es-en.tsv.gz", [("Nunca.", "Never trained on.")])
    training, _ = text.load(folder, SPANISH, seed=1)

    assert {pair for pair in training if not pair.whole} == {
        Pair("", "Jesus wept.", "es"),
        Pair("Muchedumbre balbuciente de.", "", "es"),
    }
    assert "Never trained on." not in {pair.target for pair in training}


def test_translations_are_kept_and_doubles_dropped(folder: Path):
    training, _ = text.load(folder, SPANISH, seed=1)

    assert len(training) == len(set(training))
    assert {pair.target for pair in training if pair.source == "Tos seca."} == {"Dry cough.", "A dry cough."}


def test_the_seed_decides_the_order_and_nothing_else(folder: Path):
    first, again, other = (text.load(folder, SPANISH, seed)[0] for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert set(first) == set(other)


def test_what_is_held_out_of_one_language_is_held_out_of_all(folder: Path):
    """Two languages share their English."""
    _, spanish = text.load(folder, SPANISH, seed=1)
    french = [(f"Phrase {number}.", pair.target) for number, pair in enumerate(spanish)]
    write(folder / "split-dev.fr-en.tsv.gz", [("Une toux sèche.", "A dry cough.")])
    write(folder / "split-train.fr-en.tsv.gz", [*french, ("Fièvre.", "Fever.")])
    training, held_out = text.load(folder, ["es", "fr", "en"], seed=1)
    languages = [pair.language for pair in training]

    assert [pair for pair in training if pair.language == "fr"] == [Pair("Fièvre.", "Fever.", "fr")]
    assert {pair.target for pair in training if pair.source == "Tos seca."} == {"Dry cough."}
    assert len(held_out) == len(spanish) + 1
    assert text.by_language(training) == {
        "es": list(range(len(languages) - 1)),
        "fr": [len(languages) - 1],
    }


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"split-dev\.es-en\.tsv\.gz"):
        text.load(tmp_path, SPANISH, seed=1)
