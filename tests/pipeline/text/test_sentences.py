"""Where a text can be parted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.sentences import (
    Urgency,
    ends_clause,
    ends_sentence,
    place_to_part,
    sentence_end,
    split,
)
from pipeline.text.stability import words


@pytest.mark.parametrize("word", ["casa.", "¿no?", "¡sí!", 'dijo."', "well…", "です。", "ça ?)"])
def test_ends_of_sentences_are_seen(word):
    assert ends_sentence(word)
    assert not ends_clause(word)


@pytest.mark.parametrize("word", ["casa", "3.5", "e.g", "de,", "so:"])
def test_other_words_end_no_sentence(word):
    assert not ends_sentence(word)


@pytest.mark.parametrize("word", ["de,", "so;", "that:", "then —", "で、"])
def test_ends_of_clauses_are_seen(word):
    assert ends_clause(word)


def test_sentences_are_counted():
    said = words("A b. C d e. F")

    assert [sentence_end(said, number) for number in (1, 2, 3)] == [2, 5, None]


TEXT = words("Uno dos. Tres cuatro, cinco seis siete ocho")


@pytest.mark.parametrize(
    ("shown", "certain", "urgency", "place"),
    [
        (0, 5, Urgency.SENTENCE, 2),
        (2, 5, Urgency.SENTENCE, 2),
        (3, 5, Urgency.SENTENCE, None),
        (0, 2, Urgency.SENTENCE, None),
        (3, 6, Urgency.CLAUSE, 4),
        (0, 6, Urgency.CLAUSE, 2),
        (5, 7, Urgency.CLAUSE, None),
        (5, 7, Urgency.ANYWHERE, 6),
        (5, 6, Urgency.ANYWHERE, 5),
        (6, 6, Urgency.ANYWHERE, None),
        (0, 1, Urgency.ANYWHERE, None),
    ],
)
def test_the_place_is_the_best_that_there_is(shown, certain, urgency, place):
    assert place_to_part(TEXT, shown, certain, urgency) == place


@given(
    st.lists(st.sampled_from(["a", "b.", "c,"]), max_size=12),
    st.integers(0, 12),
    st.integers(0, 12),
    st.sampled_from(Urgency),
)
def test_what_was_shown_stays_together_and_a_certain_word_is_left(said, shown, certain, urgency):
    certain = min(certain, len(said))
    place = place_to_part(said, shown, certain, urgency)

    assert place is None or max(1, shown) <= place < certain


def test_a_text_is_its_sentences():
    assert split(words("¿Qué tal? Bien, dijo. Y ya")) == ["¿Qué tal?", "Bien, dijo.", "Y ya"]
    assert split([]) == []


@given(st.text(alphabet="ab .?,。", max_size=40))
def test_no_word_is_lost_between_sentences(text):
    said = words(text.strip())
    sentences = split(said)

    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(not any(map(ends_sentence, words(sentence)[:-1])) for sentence in sentences)
