"""Fixed delay: words become stable a fixed time after they came up, whatever they are by then."""

from __future__ import annotations

from pipeline.text.delay import FixedDelay
from pipeline.text.stability import Hypothesis


def stable_after(delay, *hypotheses):
    policy, stable = FixedDelay(delay), []
    for heard, text in hypotheses:
        policy.extend(text, policy.certain(Hypothesis(text, heard)))
        stable.append(policy.stable)
    return stable


def test_words_wait():
    assert stable_after(1.0, (0.5, "a b"), (1.0, "a b c d"), (1.5, "a x c d e"), (2.0, "a x c d e f")) == [
        "",
        "",
        "a x",
        "a x c d",
    ]


def test_more_words_than_the_hypothesis_has_are_not_stable():
    assert stable_after(0.5, (0.5, "a b c d"), (1.0, "a b")) == ["", "a"]


def test_without_a_delay_all_but_the_last_word_is_stable():
    assert stable_after(0.0, (0.64, "a b c")) == ["a b"]


def test_the_time_between_hypotheses_does_not_matter():
    often = [(n * 0.16, " ".join("abcdefghij"[: n + 1])) for n in range(10)]

    assert stable_after(0.64, *often)[-1] == stable_after(0.64, often[5], often[9])[-1] == "a b c d e f"
