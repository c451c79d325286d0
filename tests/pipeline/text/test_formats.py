"""Cues in the formats that are text; what is written is read by parsers of the specifications."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.cues import Cue, pop_on
from pipeline.text.formats import clock, to_json, to_subrip, to_text, to_webvtt
from tests.pipeline.text.parsers import parse_subrip, parse_webvtt
from tests.pipeline.text.test_cues import utterances

CUES = [Cue(1, 2.5, "One,\ntwo."), Cue(3661.0009, 359_999.9996, "Three.")]


def rounded(cues):
    """What a parser must find of cues."""
    return [(round(cue.start * 1000), round(cue.end * 1000), cue.lines) for cue in cues if cue.lines]


def test_webvtt():
    assert to_webvtt(CUES) == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nOne,\ntwo.\n\n01:01:01.001 --> 100:00:00.000\nThree.\n"
    )


def test_webvtt_with_a_header():
    assert to_webvtt([], "X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:0") == (
        "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:0\n"
    )


def test_subrip():
    assert to_subrip(CUES) == (
        "1\n00:00:01,000 --> 00:00:02,500\nOne,\ntwo.\n\n2\n01:01:01,001 --> 100:00:00,000\nThree.\n\n"
    )


def test_text():
    assert to_text(CUES) == "One,\ntwo.\n\nThree.\n"


def test_json():
    assert json.loads(to_json(CUES)) == [
        {"start": 1, "end": 2.5, "text": "One,\ntwo."},
        {"start": 3661.0009, "end": 359_999.9996, "text": "Three."},
    ]
    assert "漢字" in to_json([Cue(0, 1, "漢字")])


def test_no_cues():
    assert to_webvtt([]) == "WEBVTT\n"
    assert to_subrip([]) == ""
    assert to_text([]) == ""
    assert to_json([]) == "[]\n"


def test_signs_of_webvtt_are_escaped():
    (cue,) = to_webvtt([Cue(0, 1, "a < b && b --> c > &lt;")]).split("\n\n")[1:]

    assert cue.splitlines()[1] == "a &lt; b &amp;&amp; b --&gt; c &gt; &amp;lt;"


def test_signs_of_subrip_have_no_escapes():
    assert to_subrip([Cue(0, 1, "<b> &\n1\n00:00:01,000 --> 00:00:02,000")]) == (
        "1\n00:00:00,000 --> 00:00:01,000\n<b> &\n1\n00:00:01,000 → 00:00:02,000\n\n"
    )


def test_empty_lines_do_not_end_a_cue():
    cues = [Cue(0, 1, "\none\n \n\ntwo\n"), Cue(1, 2, "\n"), Cue(2, 3, "three")]

    assert parse_webvtt(to_webvtt(cues)) == [(0, 1000, ["one", "two"]), (2000, 3000, ["three"])]
    assert parse_subrip(to_subrip(cues)) == [(0, 1000, ["one", "two"]), (2000, 3000, ["three"])]
    assert to_text(cues) == "one\ntwo\n\nthree\n"


@given(st.lists(st.builds(Cue, st.floats(0, 1e6), st.floats(0, 1e6), st.text())))
def test_webvtt_is_read_as_it_was_written(cues):
    expected = [
        (start, end, [line.replace("\0", "\ufffd") for line in lines]) for start, end, lines in rounded(cues)
    ]

    assert parse_webvtt(to_webvtt(cues)) == expected


@given(st.lists(st.builds(Cue, st.floats(0, 1e6), st.floats(0, 1e6), st.text())))
def test_subrip_is_read_as_it_was_written(cues):
    expected = [
        (start, end, [line.replace("-->", "→") for line in lines]) for start, end, lines in rounded(cues)
    ]

    assert parse_subrip(to_subrip(cues)) == expected


@given(utterances())
def test_cues_do_not_overlap_in_milliseconds_either(said):
    times = [time for start, end, _ in parse_webvtt(to_webvtt(pop_on(said))) for time in (start, end)]

    assert times == sorted(times)


@given(st.lists(st.builds(Cue, st.floats(0, 1e6), st.floats(0, 1e6), st.text())))
def test_json_is_read_as_it_was_written(cues):
    assert [Cue(**cue) for cue in json.loads(to_json(cues))] == cues


def test_clock():
    assert clock(0) == "00:00:00.000"
    assert clock(59.9996) == "00:01:00.000"
    assert clock(3599.9994) == "00:59:59.999"
    assert clock(360_000, ",") == "100:00:00,000"
