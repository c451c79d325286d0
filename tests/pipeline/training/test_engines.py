"""Which voices there are: what is held out stays held out."""

from __future__ import annotations

import ctypes

import pytest

from pipeline.training import engines
from pipeline.training.engines import (
    ENGINES,
    HELD_OUT_VARIANTS,
    held_out_engine,
    held_out_voices,
    missing_packages,
    training_voices,
)
from pipeline.training.neural import KOKORO_FOLDER, KokoroVoice
from pipeline.training.programs import FestivalVoice, ForeignVoice, MbrolaVoice, RhvoiceVoice
from pipeline.training.text import LANGUAGES
from pipeline.training.voices import EspeakVoice, FliteVoice, PicoVoice


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_voices_never_train(language: str):
    training = [voice for _, voices in training_voices(language) for voice in voices]
    held_out = held_out_voices(language)

    assert not {voice.name for voice in training} & {voice.name for voice in held_out}
    assert {voice.name.split("+")[1] for voice in held_out} == HELD_OUT_VARIANTS
    assert not [
        v for v in training if isinstance(v, EspeakVoice) and v.voice.split("+")[1] in HELD_OUT_VARIANTS
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_held_out_engine_never_trains(language: str):
    """MBROLA's terms would not allow it."""
    assert "mbrola" not in ENGINES
    assert all(isinstance(voice, MbrolaVoice) for voice in held_out_engine(language))
    assert not [v for _, voices in training_voices(language) for v in voices if isinstance(v, MbrolaVoice)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_shares_are_shares_of_the_whole(language: str):
    groups = training_voices(language)

    assert sum(share for share, _ in groups) == pytest.approx(1)
    assert all(voice.language == language for _, voices in groups for voice in voices)


def test_engines_can_be_left_out():
    kinds = {
        **{"espeak-ng": EspeakVoice, "pico": PicoVoice, "flite": FliteVoice},
        **{"festival": FestivalVoice, "foreign": ForeignVoice, "rhvoice": RhvoiceVoice},
        "kokoro": KokoroVoice,
    }
    assert kinds.keys() == set(ENGINES)
    for engine, kind in kinds.items():
        voices = [
            v for language in LANGUAGES for _, group in training_voices(language, [engine]) for v in group
        ]
        assert voices
        assert all(isinstance(voice, kind) for voice in voices)
    assert training_voices("es", ["flite"]) == []


def test_packages_of_engines_that_are_not_installed_are_named(monkeypatch):
    def fail(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", fail)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: "ked" in str(path))
    monkeypatch.setattr(engines, "find_spec", lambda name: None)

    assert missing_packages(["espeak-ng"], ["pt"]) == ["espeak-ng"]
    folder = f"hexgrad/Kokoro-82M (Hugging Face, in {KOKORO_FOLDER})"
    assert missing_packages(["kokoro"], ["fr"]) == ["kokoro (PyPI)", folder]
    assert missing_packages(["pico", "flite"], ["es", "en"]) == ["libttspico-utils", "flite"]
    assert missing_packages(["festival"], ["en"]) == ["festvox-kallpc16k"]
    italian = ["festvox-itapc16k", "festvox-italp16k"]
    assert missing_packages(["festival"], ["en", "es"]) == ["festvox-kallpc16k", *italian]
    assert missing_packages(["festival", "foreign"], ["it", "pt"])[-2:] == [
        "festvox-suopuhe-lj",
        "festvox-suopuhe-mv",
    ]


def test_nobody_needs_the_voices_of_other_languages(monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)

    assert missing_packages(["mbrola"], ["pt"]) == ["mbrola-br1", "mbrola-br4", "mbrola-pt1"]
    assert missing_packages(["flite", "rhvoice"], ["fr"]) == []
