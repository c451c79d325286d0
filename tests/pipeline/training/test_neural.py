"""Kokoro: phonemes in its own signs, styles of people that there are not, sentences spoken together."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

from pipeline.training import neural
from pipeline.training.engines import training_voices
from pipeline.training.text import LANGUAGES
from tests.pipeline.training.speaking import check, needs

# Of the library's own.
pytestmark = pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")

STYLES = {
    name: torch.full((4, 256), float(number))
    for number, name in enumerate(["af_one", "bf_two", "am_one", "ef_one", "em_one", "ff_one", "jf_one"])
}


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize(
    ("accent", "text", "expected"),
    [
        ("es", "Mañana, señor. ¿Sí?", "maɲˈana, seɲˈoɾ. sˈi?"),
        ("en-us", "The judge's house; I know!", "ðə ʤˈʌʤᵻz hˈWs; I nˈO!"),
        ("fr", "Oui...", "wˈi."),
        ("it", "", ""),
    ],
)
def test_phonemes_are_signs_that_kokoro_knows_between_the_punctuation(accent, text, expected):
    assert neural.phonemes(text, accent) == expected


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize(("number", "said"), [("3,5", "koma"), ("8:30", "oʧo")])
def test_what_stands_within_a_number_is_no_punctuation(number, said):
    spoken = neural.phonemes(f"Son {number}.", "es")

    assert said in spoken
    assert not {",", ":"} & set(spoken)


@pytest.mark.usefixtures("espeak_ng")
def test_a_word_that_espeak_takes_for_another_language_is_said_without_a_remark():
    assert "(" not in neural.phonemes("El marketing y el software de la web.", "es")


def sounds_and_talks(drawn: torch.Tensor) -> tuple[float, float]:
    """The number of the speaker, or between which two it lies, by half of the style."""
    assert drawn.shape == (4, 256)
    halves = drawn[:, :128], drawn[:, 128:]
    assert all((half == half[0, 0]).all() for half in halves)
    return halves[0][0, 0].item(), halves[1][0, 0].item()


def test_who_speaks_talks_like_a_native_and_may_sound_like_anybody_of_the_same_sex():
    random = Random(0)
    drawn = [sounds_and_talks(neural.style("es", "f", STYLES, random)) for _ in range(400)]

    natural = [talks for _, talks in drawn if talks == 3]
    assert 200 < len(natural) < 380
    # The others talk a little like a second one of a language in Latin script.
    assert {round(0.6 * 3 + 0.4 * number, 4) for number in (0, 1, 3, 5)} >= {
        round(talks, 4) for _, talks in drawn if talks != 3
    }
    women = [0, 1, 3, 5, 6]
    assert {sounds for sounds, _ in drawn} >= {float(number) for number in women}
    assert len({sounds for sounds, _ in drawn}) > 50
    assert max(sounds for sounds, _ in drawn) <= 6


def test_where_no_native_is_of_that_sex_somebody_foreign_talks():
    drawn = [sounds_and_talks(neural.style("fr", "m", STYLES, Random(seed))) for seed in range(50)]

    assert all(2 <= talks <= 4 and 2 <= sounds <= 4 for sounds, talks in drawn)


@pytest.mark.parametrize("most", [1, 100, 10_000])
def test_sentences_of_about_the_same_length_are_spoken_together(most):
    frames = torch.randint(1, 60, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    groups = list(neural._alike(frames, most))

    assert sorted(at for some, _ in groups for at in some) == list(range(40))
    assert all(len(some) == 1 or len(some) * length <= most for some, length in groups)
    # By less than a frame more: a length is a whole number of them.
    assert all(frames[at] <= length < 1.2 * frames[at] + 1 for some, length in groups for at in some)
    assert len({length for _, length in groups}) <= 23


def test_one_sentence_at_a_time_has_its_own_length():
    assert list(neural._alike([5, 9, 5], 0)) == [([0], 5), ([1], 9), ([2], 5)]


def test_a_voice_is_higher_and_rises_further_where_it_is_voiced():
    pitch = torch.tensor([[0.0, 100.0, 200.0, 0.0, 100.0], [-3.0, 5.0, 0.0, 0.0, 0.0]])
    factor, melody = torch.tensor([[1.5], [1.5]]), torch.tensor([[2.0], [2.0]])

    # A third of an octave above 100 Hz they stay where they are but for the factor.
    expected = [[0.0, 1.5 * 100 * 2 ** (-1 / 3), 1.5 * 100 * 2 ** (5 / 3), 0.0, 1.5 * 100 * 2 ** (-1 / 3)]]
    expected += [[-3.0, 5.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(neural.sung(pitch, factor, melody), torch.tensor(expected))
    natural = torch.ones(2, 1)
    torch.testing.assert_close(neural.sung(pitch, natural, natural), pitch)
    assert neural.sung(pitch, 10 * factor, melody).max() == 500


def test_people_speak_in_manners_of_their_own():
    drawn = [neural.Manner.drawn(STYLES["ef_one"], Random(seed)) for seed in range(50)]

    assert len({(one.pitch, one.melody, one.unevenness) for one in drawn}) == 50
    assert all(0.8 < one.pitch < 1.25 and 0.5 <= one.melody <= 1.7 for one in drawn)
    paces = neural.Manner(STYLES["ef_one"], 2.0, unevenness=0.3, seed=5).paces(1000)
    assert 1.9 < paces.median() < 2.1
    assert 0.25 < paces.log().std() < 0.35
    assert torch.equal(paces, neural.Manner(STYLES["ef_one"], 2.0, unevenness=0.3, seed=5).paces(1000))
    assert torch.equal(neural.Manner(STYLES["ef_one"], 2.0).paces(3), torch.full((3,), 2.0))


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("language", LANGUAGES)
def test_voices_speak(language: str):
    needs("kokoro", language)
    for _, voices in training_voices(language, ["kokoro"]):
        for voice in voices:
            check(voice)


@pytest.mark.usefixtures("espeak_ng")
def test_a_sentence_takes_as_long_in_company_as_alone(monkeypatch):
    needs("kokoro", "es")
    monkeypatch.setitem(neural._FRAMES_AT_ONCE, "cpu", 3_000)
    engine = neural.kokoro()
    style = engine.styles["ef_dora"]
    texts = ["No.", "Los niños juegan en el parque todas las tardes.", "Mañana, a las ocho.", ""]
    sentences = [neural.phonemes(text, "es") for text in texts]
    natural = neural.Manner(style)
    uneven = neural.Manner(style, 1.3, unevenness=0.3, pitch=0.8, melody=1.6, seed=3)
    manners = [natural, natural, uneven, natural]
    together = engine.speak(sentences, manners)

    assert together[3] is None
    for sentence, manner, samples in zip(sentences[:3], manners, together, strict=False):
        (alone,) = engine.speak([sentence], [manner])
        assert len(alone) == len(samples)
        # The source of its noise is another one each time.
        spectra = [
            np.abs(np.fft.rfft(wave[: len(wave) // 512 * 512].reshape(-1, 512))) for wave in (alone, samples)
        ]
        loudness = [np.log(spectrum[:, 4:64].sum(1) + 0.1) for spectrum in spectra]
        assert np.corrcoef(*loudness)[0, 1] > 0.9


@pytest.mark.usefixtures("espeak_ng")
def test_voices_say_together_what_each_says_alone():
    needs("kokoro", "es")
    needs("kokoro", "en")
    asked = [
        (neural.KokoroVoice("es", "f"), ["Mañana, a las ocho.", "No."], 1),
        (neural.KokoroVoice("en", "m"), ["The door is open."], 2),
        (neural.KokoroVoice("es", "m"), [], 3),
    ]
    together = neural.speak_together([(voice, texts, Random(seed)) for voice, texts, seed in asked])

    assert [len(said) for said in together] == [2, 1, 0]
    for (voice, texts, seed), said in zip(asked, together, strict=True):
        for own, alone in zip(said, voice.speak(texts, Random(seed)), strict=True):
            # But for the silence around it, which its noise decides where to begin.
            assert len(own.pcm) == pytest.approx(len(alone.pcm), abs=1_600)
