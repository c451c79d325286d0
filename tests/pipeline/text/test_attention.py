"""AlignAtt: words are stable up to the first that rests on the newest audio."""

from __future__ import annotations

from pipeline.text.attention import AlignAtt
from pipeline.text.stability import Hypothesis


def certain(text, heard, reach, newest=0.5):
    return AlignAtt(newest).certain(Hypothesis(text, heard, reach))


def test_words_that_rest_on_old_audio_are_certain_at_once():
    assert certain("a b c d", 4.0, [1.0, 2.0, 3.9, 4.0]) == 2
    assert certain("a b c d", 4.0, [1.0, 2.0, 3.5, 4.0]) == 3


def test_what_comes_behind_an_uncertain_word_is_uncertain():
    assert certain("a b c d", 4.0, [1.0, 3.9, 2.0, 2.0]) == 1


def test_the_last_word_is_held_back():
    assert certain("a b c", 9.0, [1.0, 2.0, 3.0]) == 2


def test_without_a_reach_nothing_is_certain():
    assert certain("a b c", 9.0, []) == 0


def test_it_asks_to_know_the_reach():
    assert AlignAtt.watches
