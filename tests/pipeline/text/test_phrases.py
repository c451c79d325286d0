"""What breaks cost."""

from __future__ import annotations

import pytest

from pipeline.text.phrases import BOUND, CLAUSE, NAME, OPENING, PLAIN, SENTENCE, break_cost, leans


@pytest.mark.parametrize(
    ("before", "after", "language", "cost"),
    [
        (" said.", " Then", "en", SENTENCE),
        (' said."', " Then", "en", SENTENCE),
        ("。", "次", "ja", SENTENCE),
        (" قال؟", " ثم", "ar", SENTENCE),
        (" and,", " then", "en", CLAUSE),
        (" —", " then", "en", CLAUSE),
        (" spoke", " about", "en", OPENING),
        (" hablar", " de", "es", OPENING),
        (" hablar", " de", "es-MX", OPENING),
        (" hablar", " (de", "es", OPENING),
        (" hablar", " de", "en", PLAIN),
        (" good", " word", "en", PLAIN),
        (" good", " word", "", PLAIN),
        (' "', " word", "en", PLAIN),
        (" Maria", " Silva", "", NAME),
        (" the", " word", "en", BOUND),
        (" The", " word", "en", BOUND),
        (' "The', " word", "en", BOUND),
        (" la", " palabra", "es", BOUND),
        (" Mr.", " Smith", "en", BOUND),
        (" about", " and", "en", BOUND),
        (" 25", " 000", "", BOUND),
        (" 25", " %", "", BOUND),
    ],
)
def test_cost_of_a_break(before, after, language, cost):
    assert break_cost(before, after, language) == cost


def test_better_breaks_cost_less():
    costs = [SENTENCE, CLAUSE, OPENING, PLAIN, NAME, BOUND]

    assert costs == sorted(set(costs))


def test_articles_and_prepositions_lean_on_what_follows_them():
    assert leans(" the", "en")
    assert leans(" Für", "de")
    assert not leans(" the", "de")
    assert not leans(" house", "en")
    assert not leans(" the", "")
