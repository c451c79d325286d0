"""Voices of engines that run in process, and the form that all speech is brought into."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from pipeline.training.engines import held_out_voices, training_voices
from pipeline.training.text import LANGUAGES
from pipeline.training.voices import EspeakVoice, PicoVoice, trimmed
from tests.pipeline.training.speaking import check, needs


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("language", LANGUAGES)
def test_espeak_voices_speak(language: str):
    voices = training_voices(language, ["espeak-ng"])[0][1]
    for voice in [*Random(1).sample(voices, 8), *held_out_voices(language)]:
        check(voice)


@pytest.mark.usefixtures("espeak_ng")
def test_word_ends_follow_the_trimming():
    (speech,) = EspeakVoice("es", "es+f2").speak(["Vamos a casa."], Random(0))

    assert len(speech.word_ends) == 3
    assert 0 < speech.word_ends[0] < speech.word_ends[1] < speech.word_ends[2] == len(speech.pcm)


@pytest.mark.parametrize("engine", ["pico", "flite"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_other_voices_speak(language: str, engine: str):
    needs(engine, language)
    for _, voices in training_voices(language, [engine]):
        for voice in voices:
            check(voice)


def test_a_sentence_that_cannot_be_spelled_is_left_out():
    refusing = PicoVoice("es", "it-IT", lambda text: None)

    assert refusing.speak(["El jefe.", "La gente."], Random(0)) == [None, None]


def test_silence_is_trimmed_and_word_ends_move_along():
    wave = np.zeros(8_000, np.int16)
    wave[1_000:5_000] = 3_000
    speech = trimmed(wave, 16_000, [2_000, 6_000])

    assert speech.word_ends == (1_000, 4_000)
    assert speech.pcm.tolist() == [29_000] * 4_000


def test_other_rates_become_16_khz():
    tone = (8_000 * np.sin(np.arange(11_025) * 2 * np.pi * 440 / 22_050)).astype(np.int16)
    speech = trimmed(tone, 22_050, [11_025])

    assert len(speech.pcm) == pytest.approx(8_000, abs=50)
    assert speech.word_ends == (len(speech.pcm),)
    spectrum = np.abs(np.fft.rfft(speech.pcm))
    assert np.argmax(spectrum) * 16_000 / len(speech.pcm) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("pcm", [np.zeros(0, np.int16), np.full(9_000, 50, np.int16), np.full(900, 9_000)])
def test_nothing_but_silence_is_nothing(pcm):
    assert trimmed(pcm, 16_000) is None
    assert trimmed(pcm, 22_050) is None
