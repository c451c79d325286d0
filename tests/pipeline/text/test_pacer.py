"""Live text as paced cues, on a clock that the tests move."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from itertools import accumulate

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.text.cues import Cue, CueConfig
from pipeline.text.pacer import Pacer, settled
from tests.pipeline.text.conftest import spaced, squeezed, texts, wide
from tests.pipeline.text.test_cues import NEARLY, check_obeyed, configs, speed

ROLL_UP = CueConfig(roll_up=True, language="en")


@st.composite
def speeches(draw, text=texts):
    """Utterances, each a list of (seconds since the one before, further stable text)."""
    return [
        [
            (draw(st.floats(0, 10) | st.just(0.0)), piece)
            for piece in draw(st.lists(text | st.text("ab c", max_size=5), min_size=1, max_size=6))
        ]
        for _ in range(draw(st.integers(0, 4)))
    ]


def paced(speech, config, tick):
    """The cues of a speech, each with the time when it was returned; if ``tick``, none is due in between."""
    pacer, now, cues = Pacer(config), 0.0, []

    def wait(until):
        while (tick or until == math.inf) and pacer.due is not None and pacer.due < until:
            due = max(now, pacer.due)
            fresh = pacer.advance(due)
            assert fresh
            cues.extend((due, cue) for cue in fresh)

    for utterance in speech:
        stables = list(accumulate(piece for _, piece in utterance))
        for number, ((delay, _), stable) in enumerate(zip(utterance, stables, strict=True), start=1):
            wait(now + delay)
            now += delay
            cues += [(now, cue) for cue in pacer.push(stable, now, final=number == len(stables))]
    wait(math.inf)
    assert pacer.due is None
    return cues


def spoken(speech):
    return ["".join(piece for _, piece in utterance) for utterance in speech]


@given(speeches(), configs, st.booleans())
def test_pop_on_cues_obey(speech, config, tick):
    check_obeyed([cue for _, cue in paced(speech, config, tick)], config)


@given(speeches(), configs, st.booleans())
def test_all_text_is_shown_once_and_in_order(speech, config, tick):
    shown = "".join(cue.text for _, cue in paced(speech, config, tick))

    assert squeezed(shown) == squeezed("".join(spoken(speech)))


@given(speeches(spaced.map(" ".join)), st.booleans())
def test_words_are_shown_once_and_in_order_however_they_come(speech, tick):
    words = [word for text in spoken(speech) for word in text.split()]
    assume(all(wide(word) <= CueConfig().width for word in words))

    assert [word for _, cue in paced(speech, CueConfig(), tick) for word in cue.text.split()] == words


@given(speeches(), configs, st.booleans())
def test_cues_are_read_as_fast_as_they_are_late(speech, config, tick):
    for now, cue in paced(speech, config, tick):
        assert cue.start >= now
        assert speed(cue) <= config.speed_at(cue.start - now) + NEARLY


@given(speeches(), configs, st.booleans())
def test_roll_up_cues_obey(speech, config, tick):
    config = replace(config, roll_up=True)
    cues = list(settled(cue for _, cue in paced(speech, config, tick)))

    check_obeyed(cues, replace(config, gap=0.0))


@given(speeches(st.just("")), st.integers(0, 30), st.booleans())
def test_roll_up_adds_words_and_moves_lines_up(speech, count, tick):
    """Every screen continues the one before: in its last line, or by a line more; or it is a new one."""
    numbers = iter(range(1000))
    speech = [
        [(delay, "".join(f"w{next(numbers)} " for _ in range(count // 3))) for delay, _ in utterance]
        for utterance in speech
    ]
    shown, seen = [], []
    for _, cue in paced(speech, ROLL_UP, tick):
        *above, last = cue.lines
        assert above in ([], shown[-1:], shown[:-1])
        seen += (last.removeprefix(shown[-1]) if shown and above == shown[:-1] else last).split()
        shown = cue.lines

    assert seen == " ".join(spoken(speech)).split()


def test_what_fills_a_cue_is_shown_at_once():
    pacer = Pacer()
    text = "When nobody wanted to say it, he finally said it all and went away, "

    assert pacer.push(text, 10) == []
    (cue,) = pacer.push(text + "but nobody followed ", 11)
    assert (cue.start, cue.lines) == (
        11,
        ["When nobody wanted to say it,", "he finally said it all and went away,"],
    )
    assert pacer.push(text + "but nobody followed ", 12, final=True)[0].text == "but nobody followed"


def test_an_utterance_that_ends_is_shown_at_once():
    assert Pacer().push("No puedo creerlo.", 5, final=True) == [Cue(5, 6, "No puedo creerlo.")]


def test_few_words_wait_for_more_but_not_long():
    pacer = Pacer(CueConfig(hold=2))

    assert pacer.push("No ", 5) == []
    assert pacer.push("No puedo ", 6) == []
    assert pacer.due == 7
    assert pacer.advance(6.9) == []
    (cue,) = pacer.advance(7)
    assert (cue.start, cue.text) == (7, "No puedo")
    assert pacer.due is None


def test_words_that_took_long_to_come_stand_as_long():
    pacer = Pacer(CueConfig(hold=3))
    pacer.push("No puedo ", 5)

    assert pacer.advance(8) == [Cue(8, 11, "No puedo")]


def test_the_last_word_waits_until_it_is_whole():
    pacer = Pacer(CueConfig(hold=0))

    assert pacer.push("No pue", 0)[0].text == "No"
    assert pacer.push("No puedo", 5) == []
    assert pacer.push("No puedo ", 10)[0].text == "puedo"
    assert pacer.push("No puedo creer", 15) == []
    assert pacer.push("No puedo creerlo.", 20, final=True)[0].text == "creerlo."


def test_an_article_waits_for_its_noun():
    pacer = Pacer(CueConfig(language="en", hold=1))
    pacer.push("She saw the ", 0)

    assert [cue.text for cue in pacer.advance(1)] == ["She saw"]
    assert pacer.advance(1.5) == []
    assert [cue.text for cue in pacer.push("She saw the house. ", 2, final=True)] == ["the house."]


def test_what_is_nothing_but_articles_is_shown_all_the_same():
    pacer = Pacer(CueConfig(language="en", hold=1))
    pacer.push("the the ", 0)

    assert [cue.text for cue in pacer.advance(1)] == ["the the"]


def test_utterances_do_not_share_a_cue():
    pacer = Pacer()

    cues = pacer.push("Sí.", 0, final=True) + pacer.push("", 0, final=True) + pacer.push("No.", 0, final=True)

    assert [cue.text for cue in cues] == ["Sí.", "No."]


def test_a_burst_becomes_a_row_of_cues():
    cues = Pacer().push("nine char " * 200, 100, final=True)

    check_obeyed(cues, CueConfig())
    assert speed(cues[0]) == pytest.approx(17)
    assert cues[1].start > 104
    assert [speed(cue) for cue in cues] == sorted(speed(cue) for cue in cues)


def test_a_talk_is_never_late(talk):
    config, stable = CueConfig(language="en"), ""
    pacer, late, cues = Pacer(config), 0.0, []
    for now, word in talk:
        stable += word + " "
        final = word.endswith(".")
        fresh = pacer.push(stable, now, final=final)
        stable = "" if final else stable
        late = max([late, *(cue.start - now for cue in fresh)])
        cues += fresh

    check_obeyed(cues, config)
    assert late < 5
    assert [word for cue in cues for word in cue.text.split()] == [word for _, word in talk]


@pytest.mark.parametrize("roll_up", [False, True])
def test_speech_that_outruns_reading_is_followed_at_a_bounded_distance(talk, roll_up):
    """At twice the speed, 24 columns a second: 7 seconds beyond the tolerance, and the cue on the screen."""
    pacer, stable, late = Pacer(CueConfig(roll_up=roll_up)), "", 0.0
    for time, word in talk:
        stable += word + " "
        late = max([late, *(cue.start - time / 2 for cue in pacer.push(stable, time / 2))])

    assert 5 < late < 16


@pytest.mark.parametrize("roll_up", [False, True])
def test_memory_is_bounded(talk, roll_up):
    pacer, stable = Pacer(CueConfig(roll_up=roll_up)), ""
    size = len(pickle.dumps(pacer))
    for time, word in talk:
        stable += word + " "
        pacer.push(stable, time / 3)
        assert len(pickle.dumps(pacer)) < size + 500
    pacer.push(stable + "x" * 100_000, time)
    assert len(pickle.dumps(pacer)) < size + 500


def test_rolling_up():
    pacer = Pacer(ROLL_UP)

    assert pacer.push("One ", 0) == [Cue(0, 7, "One")]
    assert pacer.push("One two three ", 0.5) == []
    assert pacer.due == 1
    assert pacer.advance(1) == [Cue(1, 8, "One two three")]
    assert pacer.push("One two three four.", 2, final=True) == [Cue(2, 9, "One two three four.")]


def test_a_full_line_moves_up():
    pacer = Pacer(replace(ROLL_UP, width=10))

    cues = pacer.push("aaaa bbbb cccc dddd eeee ", 0, final=True)

    assert [cue.text for cue in cues] == ["aaaa bbbb", "aaaa bbbb\ncccc dddd", "cccc dddd\neeee"]


def test_a_rolling_line_does_not_end_in_an_article():
    pacer = Pacer(replace(ROLL_UP, width=10))

    cues = pacer.push("saw in the garden in the the the the ", 0, final=True)

    assert [cue.lines[-1] for cue in cues] == ["saw", "in the", "garden", "in the the", "the the"]


def test_an_utterance_begins_on_a_new_line():
    pacer = Pacer(ROLL_UP)
    pacer.push("One.", 0, final=True)

    assert pacer.push("Two.", 2, final=True) == [Cue(2, 9, "One.\nTwo.")]


def test_a_screen_that_was_cleared_starts_anew():
    pacer = Pacer(ROLL_UP)
    pacer.push("One ", 0)

    assert pacer.push("One two ", 7) == [Cue(7, 14, "two")]


def test_settled_cues_end_when_the_next_one_starts():
    cues = [Cue(0, 7, "a"), Cue(1, 8, "a b"), Cue(20, 27, "c")]

    assert list(settled(cues)) == [Cue(0, 1, "a"), Cue(1, 8, "a b"), Cue(20, 27, "c")]
    assert list(settled([])) == []


def test_stable_text_that_shrinks_is_refused():
    pacer = Pacer()
    pacer.push("No puedo", 0)

    with pytest.raises(ValueError, match="after 8 characters came 'No'"):
        pacer.push("No", 1)


def test_time_that_goes_back_is_refused():
    pacer = Pacer()
    pacer.advance(2)

    with pytest.raises(ValueError, match="from 2 to 1"):
        pacer.push("No", 1)


def test_hours_are_no_matter():
    (cue,) = Pacer().push("Sí.", 36_000.0, final=True)

    assert (cue.start, cue.end) == (36_000.0, 36_001.0)
