"""What all policies promise, whatever they think of a hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import POLICIES, PolicyConfig
from pipeline.text.agreement import LocalAgreement
from pipeline.text.policies import new_policy
from pipeline.text.stability import Hypothesis, words


def test_scripts_without_spaces_are_cut_into_characters():
    assert words("今日は good day") == ["今", "日", "は", " good", " day"]


@given(st.text())
def test_words_joined_are_the_text(text: str):
    assert "".join(words(text)) == text.rstrip()


def test_a_hypothesis_that_contradicts_stable_text_is_refused():
    policy = LocalAgreement(1)
    policy.begin("a b")

    with pytest.raises(ValueError, match="does not begin with 'a b'"):
        policy.certain(Hypothesis("a x"))


def test_what_is_certain_becomes_stable_when_told_so():
    policy = LocalAgreement(1)

    assert policy.certain(Hypothesis("a b c")) == 2
    assert policy.stable == ""
    policy.extend("a b c", 1)
    assert policy.stable == "a"
    policy.extend("a b c", 0)
    assert policy.stable == "a"


@pytest.mark.parametrize("kind", POLICIES)
@given(
    continuations=st.lists(st.lists(st.sampled_from(["a", "b", "ccc", "日"]), max_size=6), min_size=1),
    reach=st.lists(st.floats(0, 10), max_size=12),
    strictness=st.integers(1, 3),
)
def test_stable_text_only_grows_and_holds_back_the_last_word(kind, continuations, reach, strictness):
    policy = new_policy(PolicyConfig(kind, agreement=strictness, delay=strictness / 2, newest=strictness / 2))
    for number, continuation in enumerate(continuations):
        before = policy.stable
        text = " ".join([before, *continuation] if before else continuation)
        said = words(text)
        certain = policy.certain(Hypothesis(text, number * 0.64, reach[: len(said)]))
        policy.extend(text, certain)

        assert policy.stable.startswith(before)
        assert text.startswith(policy.stable)
        assert len(words(policy.stable)) == certain <= max(len(words(before)), len(said) - 1)
