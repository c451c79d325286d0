"""The C libraries: word ends that belong to the words, and errors that say what is missing."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from pipeline.training import libraries
from pipeline.training.engines import missing_packages


@pytest.fixture
def pico() -> libraries.Pico:
    missing = missing_packages(["pico"], ["es", "en"])
    if missing:
        pytest.skip(f"SVOX Pico is not installed (Debian, non-free: apt-get install {' '.join(missing)})")
    return libraries.pico("es-ES")


@pytest.fixture
def flite() -> libraries.Flite:
    missing = missing_packages(["flite"], ["en"])
    if missing:
        pytest.skip(f"flite is not installed (Debian: apt-get install {' '.join(missing)})")
    return libraries.flite("cmu_us_slt")


def seconds_of(text: str, voice: str = "es") -> float:
    engine = libraries.espeak()
    return len(engine.speak(text, voice, rate=150, pitch=50, pitch_range=50)[0]) / engine.rate


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize(
    ("voice", "text"),
    [
        ("es", "¿Dónde está el niño, señor Núñez?"),
        ("es-419+f2", "«Sí», dijo: ¡a las ocho!"),
        ("en-us+m3", "He's twenty-one, isn't he?"),
    ],
)
def test_espeak_tells_the_end_of_every_word(voice: str, text: str):
    pcm, ends = libraries.espeak().speak(text, voice, rate=150, pitch=50, pitch_range=50)

    assert len(ends) == len(text.split())
    assert ends == sorted(ends)
    assert ends[0] > 0
    assert ends[-1] == len(pcm)


@pytest.mark.usefixtures("espeak_ng")
def test_espeak_writes_what_it_says_in_the_phonetic_alphabet():
    engine = libraries.espeak()

    assert engine.ipa("chico", "es", tie="^") == "t^ʃ\N{MODIFIER LETTER VERTICAL LINE}iko"
    assert engine.ipa("judge", "en-us", tie="_") == "d_ʒ\N{MODIFIER LETTER VERTICAL LINE}ʌd_ʒ"
    assert len(engine.ipa("Uno. Dos, tres", "es", tie="^").split()) == 3
    assert engine.ipa("", "es", tie="^") == ""
    with pytest.raises(OSError, match="no voice 'xx'"):
        engine.ipa("a", "xx", tie="^")


@pytest.mark.usefixtures("espeak_ng")
def test_a_word_ends_where_it_ends_when_it_is_said_alone():
    engine = libraries.espeak()
    _, ends = engine.speak("Señorita, buenos días", "es", rate=150, pitch=50, pitch_range=50)

    # After the comma there is a pause, so that the first word sounds as it does at the end of a sentence.
    assert ends[0] / engine.rate == pytest.approx(seconds_of("Señorita,"), abs=0.3)
    assert ends[1] / engine.rate < seconds_of("Señorita, buenos") + 0.1


@pytest.mark.usefixtures("espeak_ng")
def test_pace_and_silence_of_espeak():
    engine = libraries.espeak()
    slow, fast = (
        len(engine.speak("uno dos tres cuatro", "es", rate=rate, pitch=50, pitch_range=50)[0])
        for rate in (100, 200)
    )

    assert slow > 1.5 * fast
    assert engine.speak("", "es", rate=150, pitch=50, pitch_range=50)[1] == []


@pytest.mark.usefixtures("espeak_ng")
def test_a_voice_that_espeak_lacks_is_an_error():
    with pytest.raises(OSError, match="espeak-ng has no voice 'tlh'"):
        libraries.espeak().speak("nuqneH", "tlh", rate=150, pitch=50, pitch_range=50)


def test_pico_obeys_its_mark_up(pico):
    normal = pico.speak("Buenos días a todos.")
    slow = pico.speak('<speed level="50">Buenos días a todos.</speed>')

    assert normal.dtype == np.int16
    assert 0.5 < len(normal) / 16_000 < 4
    assert len(slow) > 1.3 * len(normal)


def test_a_voice_that_pico_lacks_is_an_error(pico):
    with pytest.raises(OSError, match="is libttspico-data installed"):
        libraries.Pico("tlh-QO")


def test_flite_stretches_what_it_says(flite):
    (normal, rate), (slow, _) = (flite.speak("Good morning.", stretch) for stretch in (1.0, 2.0))

    assert normal.dtype == np.int16
    assert 0.3 < len(normal) / rate < 3
    assert len(slow) > 1.5 * len(normal)


@pytest.mark.parametrize("engine", [libraries.Espeak, lambda: libraries.Pico("es-ES"), libraries.Flite])
def test_a_library_that_is_not_installed_is_an_error(engine, monkeypatch):
    def fail(name: str, *options: object) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    with pytest.raises(OSError, match=r"lib.+\.so"):
        engine() if engine is not libraries.Flite else engine("cmu_us_slt")
