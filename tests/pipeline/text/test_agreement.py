"""Local agreement: what hypotheses begin with alike becomes stable, and stays."""

from __future__ import annotations

import pytest

from pipeline.text.agreement import LocalAgreement
from pipeline.text.stability import Hypothesis


def stable_after(*hypotheses: str, agreement: int = 2) -> list[str]:
    policy = LocalAgreement(agreement)
    stable = []
    for text in hypotheses:
        policy.extend(text, policy.certain(Hypothesis(text)))
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


def test_at_least_one_hypothesis_has_to_agree():
    with pytest.raises(ValueError, match="got 0"):
        LocalAgreement(0)
