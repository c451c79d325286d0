"""Ruts are found where they begin, and what people say is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.ruts import without_rut
from pipeline.text.stability import words


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ya la la la la la la", "ya la"),
        ("so the end. The end. The end. The end.", "so the end."),
        ("a b c d a b c d a b c d", "a b c d"),
        ("good jajajajajajajajajajaja day", "good"),
    ],
)
def test_a_rut_is_left_at_once(text, kept):
    assert "".join(without_rut(words(text))) == kept


@pytest.mark.parametrize(
    "text",
    [
        "no, no, no, no",
        "very very very good",
        "a b c d a b c d e",
        "uno dos uno dos uno dos",
        "10000000000",
        "",
        "¡ja, ja, ja!",
    ],
)
def test_speakers_may_repeat_themselves(text):
    assert "".join(without_rut(words(text))) == text


@given(st.lists(st.sampled_from([" a", " b"]), max_size=40))
def test_what_is_left_is_a_beginning_without_a_rut(said):
    left = without_rut(said)

    assert said[: len(left)] == left
    assert without_rut(left) == left
