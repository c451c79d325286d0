"""What cues obey, and finished text as cues."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.cues import Cue, CueConfig, Timeline, pop_on
from tests.pipeline.text.conftest import spaced, squeezed, texts, wide

NEARLY = 1e-6

seconds = st.floats(0, 30, allow_nan=False)

configs = st.builds(
    CueConfig,
    language=st.sampled_from(["", "en", "es", "ja"]),
    lines=st.integers(1, 2),
    width=st.integers(2, 42),
    speed=st.floats(13, 20),
    shortest=st.floats(0.8, 1.5),
    gap=st.floats(0, 0.5),
    tolerance=st.floats(0, 3),
    catch_up=st.floats(0, 3),
)


@st.composite
def utterances(draw, text=texts):
    """Texts with the times when they were said: one after the other, or even at the same time."""
    said, time = [], 0.0
    for _ in range(draw(st.integers(0, 5))):
        time += draw(seconds)
        end = time + draw(seconds)
        said.append(Cue(time, end, draw(text)))
        time = draw(st.sampled_from([time, end]))
    return said


def check_obeyed(cues, config):
    """That lines, durations and gaps are within bounds."""
    for cue in cues:
        lines = cue.text.split("\n")
        assert cue.lines == lines
        assert 1 <= len(lines) <= config.lines
        assert all(0 <= wide(line) <= config.width for line in lines)
        assert config.shortest - NEARLY <= cue.end - cue.start <= config.longest + NEARLY
    for cue, following in pairwise(cues):
        assert following.start >= cue.end + config.gap - NEARLY


def speed(cue):
    return sum(map(wide, cue.lines)) / (cue.end - cue.start)


@given(utterances(), configs)
def test_cues_obey(said, config):
    check_obeyed(list(pop_on(said, config)), config)


@given(utterances(), configs)
def test_all_text_is_shown_once_and_in_order(said, config):
    shown = "".join(cue.text for cue in pop_on(said, config))

    assert squeezed(shown) == squeezed("".join(cue.text for cue in said))


@given(utterances(spaced.map(" ".join)))
def test_every_word_is_shown_once_and_in_order(said):
    shown = [word for cue in pop_on(said) for word in cue.text.split()]

    assert shown == [word for cue in said for word in cue.text.split()]


@given(utterances(), configs)
def test_no_cue_comes_before_its_text_is_said(said, config):
    for cue in said:
        assert all(shown.start >= cue.start for shown in pop_on([cue], config))


@given(spaced.map(" ".join), configs)
def test_text_that_is_said_slowly_can_be_read(text, config):
    said = Cue(0, 1 + 2 * wide(text) * (config.gap + config.shortest), text)

    assert all(speed(cue) <= config.speed + NEARLY for cue in pop_on([said], config))


def test_cues_begin_where_their_text_is_said():
    text = "These words are said in the first half. But these words are said in the second. "

    first, second = pop_on([Cue(10, 20, text * 2)])

    assert first.start == 10
    assert second.start == pytest.approx(15, abs=0.2)
    assert second.end == pytest.approx(20, abs=0.1)


def test_cues_stand_while_they_are_said_but_not_too_long():
    assert list(pop_on([Cue(0, 3, "Slowly")])) == [Cue(0, 3 - 0.08, "Slowly")]
    assert list(pop_on([Cue(0, 60, "Slowly")])) == [Cue(0, 7, "Slowly")]
    assert list(pop_on([Cue(0, 0.1, "Fast")])) == [Cue(0, 1, "Fast")]


def test_fast_speech_moves_cues_until_there_is_time():
    said = [Cue(i, i + 1, "x" * 34) for i in range(3)] + [Cue(20, 21, "x")]

    cues = list(pop_on(said))

    assert [round(cue.start, 2) for cue in cues] == [0, 2.08, 4.16, 20]
    assert all(speed(cue) <= 17 + NEARLY for cue in cues[:2])


def test_the_later_a_cue_the_faster_it_is_read():
    config = CueConfig()

    assert config.speed_at(0) == config.speed_at(2) == 17
    assert config.speed_at(5) == 20
    assert config.speed_at(10) == 25


def test_late_text_catches_up():
    """At 22 columns a second the delay stays where text is read just as fast."""
    timeline = Timeline(CueConfig(), gap=0)

    late = [timeline.place("x" * 66, ready)[0] - ready for ready in range(0, 3000, 3)]

    assert late == sorted(late)
    assert late[-1] == pytest.approx(7, abs=0.1)
    assert timeline.place("x" * 34, 4000) == (4000, 4002)


def test_nothing_said_gives_no_cues():
    assert list(pop_on([])) == []
    assert list(pop_on([Cue(0, 1, ""), Cue(1, 2, " \n")])) == []


def test_lines_of_a_cue():
    assert Cue(0, 1, "one\n\n two\r\n").lines == ["one", " two"]
    assert Cue(0, 1, "\n").lines == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lines": 0}, "got 0 lines of 42"),
        ({"width": 1}, "got 2 lines of 1"),
        ({"shortest": 0}, "shortest=0"),
        ({"shortest": 8}, "shortest=8, longest=7.0"),
        ({"gap": -1}, "gap must be 0 or more"),
        ({"hold": float("inf")}, "hold"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"catch_up": -0.1}, "catch_up"),
        ({"lines": 3}, "3 lines of 42 columns cannot be read in 7.0 s at 17.0"),
        ({"speed": 0}, "at 0 columns per second"),
        ({"speed": float("nan")}, "at nan columns per second"),
        ({"longest": float("inf")}, "longest=inf"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        CueConfig(**settings)
