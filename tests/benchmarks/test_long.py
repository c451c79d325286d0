"""The benchmark of hours, in minutes of audio."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import long
from benchmarks.quality import Clip
from benchmarks.talks import compose
from pipeline.audio.files import read_audio
from pipeline.wire.events import SpeechEnd, SpeechStart, Transcript


@pytest.fixture(name="talk", scope="module")
def _talk(recording):
    sentences = read_audio(recording)
    clips = [Clip(sentences[at : at + 40_000], "uno dos", "one two") for at in (0, 60_000, 120_000)]
    return compose("x", "es", "en", clips, pauses=(0.9, 1.2))


def test_minutes_of_audio_are_as_hours_should_be(babbler, talk):
    """Real gate, real encoder, real clock of samples; only the words are a random model's."""
    result = long.measure(babbler, talk, 60.0)

    assert result["click_error_s"] <= 0.05
    assert result["start_error_s"] <= 0.15
    assert result["end_error_s"] <= 0.15
    assert abs(result["memory_growth"]) <= 0.05
    assert result["rtf"] < 1


def test_growth_is_that_of_a_line_behind_the_first_tenth():
    memory = np.array([10, *np.linspace(100, 150, 9 * 20)]).repeat(10)

    assert long.growth(np.full(100, 7_000)) == pytest.approx(0)
    assert long.growth(memory) == pytest.approx(0.434, abs=0.005)


def test_a_click_that_is_out_of_place_is_found_to_be(talk):
    audio, steps = long.repeated(talk, 30.0, talk.sentences[1].start + 0.5)

    assert long.click_error(audio, steps, talk.sentences[1].start + 0.5) < 0.001
    assert long.click_error(audio, steps, talk.sentences[1].start + 0.7) == pytest.approx(0.2, abs=0.001)


def test_edges_are_measured_against_the_nearest_and_seams_are_none(talk):
    period = len(talk.waveform) / 16_000
    first, second = talk.sentences[:2]
    events = [
        SpeechStart(utterance=0, time=period + first.start + 0.1),
        SpeechEnd(utterance=0, time=period + 2.0),
        SpeechStart(utterance=1, time=period + 2.0),
        SpeechEnd(utterance=1, time=period + second.end - 0.2),
    ]

    assert long.edges(events, talk, period) == pytest.approx((0.1, 0.2))


def test_wer_is_of_the_repetitions_asked_for(talk):
    period = len(talk.waveform) / 16_000

    def heard(turn, text):
        about = {"utterance": 0, "start": turn * period, "end": turn * period + 1, "tentative": ""}
        return Transcript(**about, stable=text, final=True)

    events = [heard(0, "uno dos uno dos uno dos"), heard(1, "uno dos uno dos"), heard(2, "nada")]

    assert long.wer(events, talk, 0, 1, period) == 0
    assert long.wer(events, talk, 1, 2, period) == pytest.approx(2 / 6)


@pytest.mark.usefixtures("espeak_ng")
def test_the_last_line_is_the_result(checkpoint, capsys):
    long.main(["--hours", "0.01", "--sentences", "2", "--model", str(checkpoint)])

    assert {"memory_growth", "click_error_s", "wer_first", "wer_last"} <= json.loads(
        capsys.readouterr().out.splitlines()[-1]
    ).keys()
