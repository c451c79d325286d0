"""Finished text as subtitle files."""

from __future__ import annotations

from hypothesis import given

from pipeline.text import subtitles
from pipeline.text.cues import CueConfig, pop_on
from pipeline.text.subtitles import Cue
from tests.pipeline.text.parsers import parse_subrip, parse_webvtt
from tests.pipeline.text.test_cues import utterances
from tests.pipeline.text.test_formats import rounded

SAID = [Cue(0, 8, "The people who live here know more about the history of houses. Others don't <know>.")]


def test_vtt():
    assert subtitles.vtt(SAID, CueConfig(language="en")) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:05.992\nThe people who live here know more\n"
        "about the history of houses.\n\n"
        "00:00:06.072 --> 00:00:07.920\nOthers don't &lt;know&gt;.\n"
    )


def test_srt():
    assert subtitles.srt(SAID, CueConfig(language="en")) == (
        "1\n00:00:00,000 --> 00:00:05,992\nThe people who live here know more\n"
        "about the history of houses.\n\n"
        "2\n00:00:06,072 --> 00:00:07,920\nOthers don't <know>.\n\n"
    )


def test_nothing_said():
    assert subtitles.vtt([]) == "WEBVTT\n"
    assert subtitles.srt([Cue(0, 1, "")]) == ""


@given(utterances())
def test_files_hold_what_was_said_as_cues(said):
    cues = rounded(pop_on(said))

    assert len(parse_webvtt(subtitles.vtt(said))) == len(parse_subrip(subtitles.srt(said))) == len(cues)
    assert [cue[:2] for cue in parse_webvtt(subtitles.vtt(said))] == [cue[:2] for cue in cues]
