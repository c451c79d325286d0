"""Voices: every engine speaks through one interface, and what is held out stays held out."""

from __future__ import annotations

import ctypes
import shutil
from random import Random

import numpy as np
import pytest

from pipeline.training import engines
from pipeline.training.engines import (
    ENGINES,
    HELD_OUT_VARIANTS,
    EspeakVoice,
    FestivalVoice,
    FliteVoice,
    MbrolaVoice,
    PicoVoice,
    held_out_engine,
    held_out_voices,
    missing_packages,
    training_voices,
    trimmed,
)

SENTENCES = {
    "es": ["Buenos días a todos.", 'Pregunta: "¿vamos (a casa)?".'],
    "en": ["Good morning.", 'He said "no".'],
}


def needs(engine: str) -> None:
    missing = missing_packages([engine])
    if missing:
        pytest.skip(f"{engine} is not installed (Debian: apt-get install {' '.join(missing)})")


def check(voice: engines.Voice) -> None:
    """The voice says both sentences, at a natural length and a known level, without silence around them."""
    spoken = voice.speak(SENTENCES[voice.language], Random(0))

    assert len(spoken) == 2
    for speech in spoken:
        assert speech is not None, voice.name
        assert speech.pcm.dtype == np.int16
        assert 0.3 < len(speech.pcm) / 16_000 < 6
        assert np.abs(speech.pcm.astype(int)).max() == pytest.approx(29_000, abs=2)
        assert np.abs(speech.pcm[[0, -1]].astype(int)).min() > 200


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("language", ["es", "en"])
def test_espeak_voices_speak(language: str):
    voices = training_voices(language, ["espeak-ng"])[0][1]
    for voice in [*Random(1).sample(voices, 8), *held_out_voices(language)]:
        check(voice)


@pytest.mark.usefixtures("espeak_ng")
def test_word_ends_follow_the_trimming():
    (speech,) = EspeakVoice("es", "es+f2").speak(["Vamos a casa."], Random(0))

    assert len(speech.word_ends) == 3
    assert 0 < speech.word_ends[0] < speech.word_ends[1] < speech.word_ends[2] == len(speech.pcm)


@pytest.mark.parametrize("engine", ["pico", "flite", "festival"])
@pytest.mark.parametrize("language", ["es", "en"])
def test_voices_of_the_other_engines_speak(language: str, engine: str):
    needs(engine)
    for _, voices in training_voices(language, [engine]):
        for voice in voices:
            check(voice)


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("language", ["es", "en"])
def test_voices_of_the_held_out_engine_speak(language: str):
    needs("mbrola")
    if shutil.which("mbrola") is None:
        pytest.skip("mbrola is not installed (Debian, contrib: apt-get install mbrola)")
    for voice in held_out_engine(language):
        check(voice)


def test_a_sentence_that_cannot_be_spelled_is_left_out():
    refusing = PicoVoice("es", "it-IT", lambda text: None)

    assert refusing.speak(["El jefe.", "La gente."], Random(0)) == [None, None]


def test_festival_reads_what_can_be_spelled():
    needs("festival")
    (voice,) = [
        voice
        for _, voices in training_voices("es")
        for voice in voices
        if voice.name == "festival-pc_diphone"
    ]
    refused, said = voice.speak(["El jefe.", "La casa."], Random(0))

    assert refused is None
    assert said is not None


@pytest.mark.parametrize("language", ["es", "en"])
def test_held_out_voices_never_train(language: str):
    training = [voice for _, voices in training_voices(language) for voice in voices]
    held_out = held_out_voices(language)

    assert not {voice.name for voice in training} & {voice.name for voice in held_out}
    assert {voice.name.split("+")[1] for voice in held_out} == HELD_OUT_VARIANTS
    assert not [
        v for v in training if isinstance(v, EspeakVoice) and v.voice.split("+")[1] in HELD_OUT_VARIANTS
    ]


@pytest.mark.parametrize("language", ["es", "en"])
def test_the_held_out_engine_never_trains(language: str):
    """MBROLA's terms would not allow it."""
    assert "mbrola" not in ENGINES
    assert all(isinstance(voice, MbrolaVoice) for voice in held_out_engine(language))
    assert not [v for _, voices in training_voices(language) for v in voices if isinstance(v, MbrolaVoice)]


@pytest.mark.parametrize("language", ["es", "en"])
def test_the_shares_are_shares_of_the_whole(language: str):
    groups = training_voices(language)

    assert sum(share for share, _ in groups) == pytest.approx(1)
    assert all(voice.language == language for _, voices in groups for voice in voices)


def test_engines_can_be_left_out():
    kinds = {"espeak-ng": EspeakVoice, "pico": PicoVoice, "flite": FliteVoice, "festival": FestivalVoice}
    for engine, kind in kinds.items():
        voices = [
            v for language in ("es", "en") for _, group in training_voices(language, [engine]) for v in group
        ]
        assert voices
        assert all(isinstance(voice, kind) for voice in voices)
    assert training_voices("es", ["flite"]) == []


def test_packages_of_engines_that_are_not_installed_are_named(monkeypatch):
    def fail(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", fail)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: "ked" in str(path))

    assert missing_packages(["espeak-ng"]) == ["espeak-ng"]
    assert missing_packages(["pico", "flite"]) == ["libttspico-utils", "flite"]
    assert missing_packages(["festival"]) == [
        "festvox-kallpc16k",
        "festvox-itapc16k",
        "festvox-italp16k",
    ]


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
