"""Sentences that go together: by a rare word, and never one with itself."""

from __future__ import annotations

from random import Random

import pytest

from pipeline.training.companions import MOST, Companions, companions
from pipeline.training.text import Pair, fingerprint

TEXTS = [
    "Tom lives in Lisbon.",
    "Lisbon is a city.",
    "Is Lisbon a city?",
    "A dog is a dog.",
    *["Tom is a man."] * MOST,
    "Nobody has seen a zebra.",
    "nobody has seen a ZEBRA!",
]


def found(index: int) -> set[str | None]:
    companions = Companions(dict(enumerate(TEXTS)))
    return {companions.of(index, Random(seed)) for seed in range(60)}


def test_a_rare_word_is_a_topic():
    assert found(0) == {None, TEXTS[1], TEXTS[2]}


def test_frequent_words_and_words_of_one_sentence_are_none():
    assert found(3) == {None}


def test_the_same_words_are_no_company():
    assert found(len(TEXTS) - 1) == {None}


def test_real_sentences_have_company_that_shares_a_word(spanish):
    texts = [pair.target for pair in spanish]
    companions, random = Companions(dict(enumerate(texts))), Random(1)
    pairs = [(text, companions.of(index, random)) for index, text in enumerate(texts)]
    together = [(text, other) for text, other in pairs if other is not None]

    assert len(together) > 0.25 * len(texts)
    for text, other in together:
        assert set(fingerprint(text).split()) & set(fingerprint(other).split())
        assert fingerprint(text) != fingerprint(other)


def test_languages_keep_to_themselves(pairs):
    together = companions(pairs)
    french = {pair.source for pair in pairs if pair.language == "fr"}
    found = [together["fr"].of(index, Random(index)) for index in range(500, 800)]

    assert together.keys() == {"es", "fr", "en"}
    assert {text for text in found if text is not None} <= french
    # Their English is one language.
    english = [together["en"].of(index, Random(1)) for index in range(500)]
    assert {text for text in english if text} & {pair.target for pair in pairs if pair.language == "fr"}


def test_missing_sides_are_no_company():
    pairs = [Pair("", "A zebra.", "es"), Pair("Una cebra.", "", "es"), Pair("La cebra.", "The zebra.", "es")]
    together = companions(pairs)

    assert {together["es"].of(1, Random(seed)) for seed in range(20)} == {None, "La cebra."}
    assert {together["en"].of(0, Random(seed)) for seed in range(20)} == {None, "The zebra."}
    assert together["en"].of(1, Random(1)) is None


@pytest.mark.parametrize("texts", [[], ["alone"]])
def test_few_sentences_have_none(texts: list[str]):
    companions = Companions(dict(enumerate(texts)))

    assert [companions.of(index, Random(0)) for index in range(len(texts))] == [None] * len(texts)
