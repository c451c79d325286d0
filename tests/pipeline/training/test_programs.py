"""Voices of engines that run as programs."""

from __future__ import annotations

import shutil
from random import Random

import numpy as np
import pytest

from pipeline.training.engines import held_out_engine, training_voices
from pipeline.training.foreign import FINNISH
from pipeline.training.programs import ForeignVoice
from pipeline.training.text import LANGUAGES
from tests.pipeline.training.speaking import check, needs


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("engine", ["festival", "foreign", "rhvoice"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_voices_speak(language: str, engine: str):
    needs(engine, language)
    for _, voices in training_voices(language, [engine]):
        for voice in voices:
            check(voice)


def test_festival_reads_what_can_be_spelled():
    needs("festival", "es")
    (voice,) = [
        voice
        for _, voices in training_voices("es")
        for voice in voices
        if voice.name == "festival-pc_diphone"
    ]
    refused, said = voice.speak(["El jefe.", "La casa."], Random(0))

    assert refused is None
    assert said is not None


@pytest.mark.usefixtures("espeak_ng")
def test_a_foreign_voice_takes_as_long_as_espeak():
    needs("foreign", "es")
    voice = ForeignVoice("es", "suo_fi_lj_diphone", FINNISH["es"], 180.0)
    short, long = voice.speak(["Vamos a casa.", "Vamos a casa porque mañana será otro día."], Random(0))

    assert 0.5 < len(short.pcm) / 16_000 < 1.6
    assert len(long.pcm) > 1.8 * len(short.pcm)


@pytest.mark.usefixtures("espeak_ng")
def test_a_foreign_voice_leaves_out_what_it_has_no_phones_for():
    needs("foreign", "es")
    voice = ForeignVoice("es", "suo_fi_lj_diphone", {"a": "a", "l": "l"}, 180.0)
    refused, said = voice.speak(["El jefe.", "Ala."], Random(0))

    assert refused is None
    assert np.abs(said.pcm.astype(int)).max() == pytest.approx(29_000, abs=2)


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("language", LANGUAGES)
def test_voices_of_the_held_out_engine_speak(language: str):
    needs("mbrola", language)
    if shutil.which("mbrola") is None:
        pytest.skip("mbrola is not installed (Debian, contrib: apt-get install mbrola)")
    for voice in held_out_engine(language):
        check(voice)
