"""Confidence intervals: around the figure itself, narrower with more clips, and as wide as clips differ."""

from __future__ import annotations

import jiwer
import numpy as np
import pytest
import sacrebleu

from benchmarks import intervals

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "seven", "small", "birds"]


def clips(count: int, errors: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences, and how they were heard: some words are not what they were."""
    random = np.random.default_rng(seed)
    said, heard = [], []
    for _ in range(count):
        words = random.choice(WORDS, random.integers(4, 12))
        wrong = random.random(len(words)) < errors
        said.append(" ".join(words))
        heard.append(" ".join(np.where(wrong, "uh", words)))
    return said, heard


@pytest.mark.parametrize("characters", [False, True])
def test_the_figure_is_inside_and_more_clips_say_more(characters: bool):
    widths = []
    for count in (12, 300):
        said, heard = clips(count, 0.3)
        low, high = intervals.of_errors(said, heard, characters=characters)
        exact = (jiwer.cer if characters else jiwer.wer)(said, heard)
        assert low < exact < high
        widths.append(high - low)

    assert widths[1] == pytest.approx(widths[0] * (12 / 300) ** 0.5, rel=0.5)


def test_the_interval_of_a_rate_is_that_of_theory():
    """Words of one-word clips are errors with probability p: the normal interval is known."""
    said = ["one"] * 400
    heard = ["one"] * 300 + ["two"] * 100
    low, high = intervals.of_errors(said, heard)
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5

    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_clips_that_are_all_alike_leave_no_doubt():
    low, high = intervals.of_errors(["a b c d"] * 9, ["a b c"] * 9)

    assert low == high == 0.25


def test_bleu_lies_inside_and_a_perfect_one_leaves_no_doubt():
    said, heard = clips(60, 0.2)
    low, high = intervals.of_bleu(heard, said)

    assert low < sacrebleu.corpus_bleu(heard, [said]).score < high
    assert intervals.of_bleu(said, said) == pytest.approx((100, 100))


def test_bleu_of_one_clip_drawn_again_is_its_own():
    """The counts of clips add up to those of the whole, empty answers included."""
    said, heard = ["the cat sat on a mat and saw birds"] * 3, ["the cat sat on the mat and saw birds"] * 3
    exact = sacrebleu.corpus_bleu(heard, [said]).score

    assert intervals.of_bleu(heard, said) == pytest.approx((exact, exact))
    assert intervals.of_bleu([""] * 3, said) == (0, 0)
