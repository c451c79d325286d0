"""Local agreement: what hypotheses begin with alike becomes stable, and stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.agreement import LocalAgreement, words


def stable_after(*hypotheses: str, agreement: int = 2) -> list[str]:
    policy = LocalAgreement(agreement)
    stable = []
    for hypothesis in hypotheses:
        policy.push(hypothesis)
        stable.append(policy.stable)
    return stable


def test_two_hypotheses_agree_on_a_beginning():
    assert stable_after("el gato", "el gato duerme", "el gato come aquí") == ["", "el gato", "el gato"]
    assert stable_after("el gato", "el gato duerme", "el gato duerme aquí")[2] == "el gato duerme"


def test_three_have_to_agree_if_so_asked():
    assert stable_after("a b c", "a b c", "a b d", agreement=3) == ["", "", "a b"]


def test_the_last_word_is_held_back_however_often_it_comes():
    assert stable_after("una casa.", "una casa.", "una casa.") == ["", "una", "una"]


def test_with_an_agreement_of_one_all_but_the_last_word_is_stable():
    assert stable_after("a b c", agreement=1) == ["a b"]


def test_what_was_agreed_stays_when_hypotheses_part():
    assert stable_after("a b c", "a b d", "a b x y", "a b z") == ["", "a b", "a b", "a b"]


def test_the_rest_is_tentative():
    policy = LocalAgreement(2)

    assert policy.push("a b c") == "a b c"
    assert policy.push("a b d") == " d"
    assert policy.stable == "a b"


def test_a_hypothesis_that_contradicts_stable_text_is_refused():
    policy = LocalAgreement(1)
    policy.push("a b c")

    with pytest.raises(ValueError, match="does not begin with 'a b'"):
        policy.push("a x")


def test_at_least_one_hypothesis_has_to_agree():
    with pytest.raises(ValueError, match="got 0"):
        LocalAgreement(0)


def test_scripts_without_spaces_are_cut_into_characters():
    assert words("今日は good day") == ["今", "日", "は", " good", " day"]


@given(st.text())
def test_words_joined_are_the_text(text: str):
    assert "".join(words(text)) == text.rstrip()


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "ccc", "日"]), max_size=6), min_size=1),
    st.integers(1, 3),
)
def test_stable_text_only_grows_and_begins_every_hypothesis(continuations, agreement):
    policy = LocalAgreement(agreement)
    before = ""
    for continuation in continuations:
        hypothesis = " ".join([policy.stable, *continuation] if policy.stable else continuation)
        tentative = policy.push(hypothesis)

        assert policy.stable.startswith(before)
        assert policy.stable + tentative == hypothesis
        before = policy.stable
