"""Quality: what is compared, and that the figures are those of jiwer and sacrebleu on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import quality
from benchmarks.quality import Clip
from pipeline.gemma.prompt import PromptTemplate
from pipeline.training.engines import held_out_voices
from pipeline.training.voices import Speech

SILENCE = np.zeros(16_000, np.float32)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("¿Cuánto cuesta?  ¡Nada!", "cuánto cuesta nada"),
        ("«Sí», dijo: «así».", "sí dijo así"),
        ("Don't", "dont"),
        ("We\u2019re twenty-one.", "were twenty one"),
        ("Ñandú\n5 €", "ñandú 5 €"),
        ("...", ""),
    ],
)
def test_normalise_leaves_the_words(text: str, normal: str):
    assert quality.normalise(text) == normal


def test_right_answers_score_perfectly_whatever_their_punctuation():
    clips = [
        Clip(SILENCE, "El gato duerme.", "The cat is asleep."),
        Clip(SILENCE, "Él no está aquí.", "He is not here now."),
    ]
    answers = [("el gato duerme", "The cat is asleep."), ("¡Él no está aquí!", "He is not here now.")]
    assert quality.score(clips, answers) == pytest.approx({"wer": 0, "cer": 0, "bleu": 100, "chrf": 100})


def test_errors_are_counted_over_the_words_of_all_clips():
    clips = [Clip(SILENCE, "uno dos tres", "a b c d"), Clip(SILENCE, "cuatro", "e f g h")]
    scores = quality.score(clips, [("uno dos", "a b c d"), ("cuatro", "")])

    assert scores["wer"] == pytest.approx(1 / 4)
    assert scores["cer"] == pytest.approx(5 / 18)
    assert 0 < scores["bleu"] < 100
    assert 0 < scores["chrf"] < 100


def test_bleu_minds_case_and_punctuation():
    clips = [Clip(SILENCE, "hola", "Good morning, my dear friend.")]
    assert quality.score(clips, [("hola", "good morning my dear friend")])["bleu"] < 50


def test_bleu_is_of_the_clips_whose_translation_is_known():
    clips = [Clip(SILENCE, "hola"), Clip(SILENCE, "bien", "I am fine, thank you.")]
    scores = quality.score(
        clips, [("hola", "Nothing of this counts at all."), ("bien", "I am fine, thank you.")]
    )

    assert (scores["bleu"], scores["chrf"]) == pytest.approx((100, 100))


def test_recordings_without_translation_have_no_bleu():
    assert quality.score([Clip(SILENCE, "hola")], [("ola", "hi")]).keys() == {"wer", "cer"}


@pytest.mark.parametrize("language", ["es", "fr", "it", "pt"])
def test_held_out_sentences_are_five_hundred_distinct_pairs(language: str):
    pairs = quality.held_out_pairs(language)
    assert len(pairs) == len(set(pairs)) == 500
    assert all(quality.normalise(side) for pair in pairs for side in pair)


def test_directions_are_those_that_the_model_knows_and_there_are_sentences_for():
    assert quality.directions(["es", "en"]) == [("es", "en"), ("en", "es")]
    assert quality.directions(["en", "zh", "fr"]) == [("fr", "en"), ("en", "fr")]
    assert len(quality.directions(PromptTemplate().languages)) == 8


def test_sentences_are_said_in_the_language_of_the_speaker():
    french, english = quality.sentences(("fr", "en"), 5), quality.sentences(("en", "fr"), 5)

    assert french == quality.held_out_pairs("fr")[:5]
    assert english == [(meant, said) for said, meant in french]


def test_confidence_surrounds_the_score():
    clips = [
        Clip(SILENCE, f"uno dos {word}", f"one two {word} four") for word in ("tres", "cuatro", "cinco")
    ] * 9
    answers = [("uno dos tres", "one two tres four")] * 27
    scores, sure = quality.score(clips, answers), quality.confidence(clips, answers)

    assert sure.keys() == {f"{name}_{end}" for name in ("wer", "cer", "bleu") for end in ("low", "high")}
    for name in ("wer", "cer", "bleu"):
        assert sure[f"{name}_low"] < scores[name] < sure[f"{name}_high"]


def test_conditions_change_what_is_heard_and_nothing_else():
    tone = np.sin(np.arange(16_000) / 5).astype(np.float32) / 2
    clips = [Clip(tone, "uno", "one"), Clip(tone, "dos", "two")]
    clean, noisy = quality.under(clips, "clean"), quality.under(clips, "noise-10db")

    assert clean == clips
    assert [(clip.transcript, clip.translation) for clip in noisy] == [("uno", "one"), ("dos", "two")]
    assert not np.array_equal(noisy[0].waveform, noisy[1].waveform)


@dataclass(frozen=True)
class Hum:
    """A voice that hums a note of its own as long as the text; it cannot say numbers."""

    language: str
    name: str
    level: int

    def speak(self, texts, random):
        return [
            None if text.isdigit() else Speech(np.full(len(text), self.level, np.int16)) for text in texts
        ]


def test_voices_take_turns_and_what_they_cannot_say_is_left_out():
    pairs = [("uno", "one"), ("dos", "two"), ("3", "three"), ("cuatro", "four")]
    clips = quality.spoken(pairs, [Hum("es", "low", 8_192), Hum("es", "high", 16_384)])

    assert [(clip.transcript, clip.translation) for clip in clips] == [pairs[0], pairs[1], pairs[3]]
    assert [float(clip.waveform[0]) for clip in clips] == [0.25, 0.5, 0.5]
    assert clips[2].waveform.shape == (6,)


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("language", ["es", "en"])
def test_held_out_voices_speak_alike_every_time(language: str):
    """Pace and pitch are drawn by the clip's number; espeak-ng's own flutter moves samples a little."""
    pairs = [("Tom, 1, 2.", "")] * 4
    first = quality.spoken(pairs, held_out_voices(language))
    again = quality.spoken(pairs, held_out_voices(language))

    assert len(first) == len(pairs)
    for clip, repeated in zip(first, again, strict=True):
        assert 0.5 < len(clip.waveform) / 16_000 < 5
        assert len(clip.waveform) == pytest.approx(len(repeated.waveform), rel=0.02)


def test_manifest_is_read_by_language(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", SILENCE[:800], 8_000)
    soundfile.write(tmp_path / "b.wav", SILENCE, 16_000)
    (tmp_path / "manifest.tsv").write_text(
        "file\tlang\ttranscript\ttranslation\n"
        'a.wav\tes\tdijo "hola\ten: She said: "hello\nb.wav\ten\thello\tit: ciao\nno.wav\tpt\tolá\t\n'
    )
    clips = quality.recorded(tmp_path, quality.directions(["es", "it", "en"]))

    assert {
        direction: [(clip.transcript, clip.translation) for clip in some] for direction, some in clips.items()
    } == {
        ("es", "en"): [('dijo "hola', 'She said: "hello')],
        ("en", "es"): [("hello", None)],
        ("en", "it"): [("hello", "ciao")],
    }
    assert clips["es", "en"][0].waveform.shape == (1_600,)


def test_a_manifest_needs_no_translations(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", SILENCE, 16_000)
    (tmp_path / "manifest.tsv").write_text("file\tlang\ttranscript\na.wav\ten\thello\n")
    clips = quality.recorded(tmp_path, [("en", "fr")])

    assert [clip.translation for clip in clips["en", "fr"]] == [None]


def test_evaluate_asks_for_each_clip_in_its_language():
    asked = []

    def hear(model, waveform, source, target):
        asked.append((model, len(waveform), source, target))
        return "hola", "Hello there, my friend."

    clips = [Clip(SILENCE[:n], "Hola.", "Hello there, my friend.") for n in (10, 20)]
    scores = quality.evaluate("model", clips, "es", "en", hear)

    assert asked == [("model", 10, "es", "en"), ("model", 20, "es", "en")]
    assert scores["wer"] == scores["wer_high"] == 0
    assert scores["clips"] == 2


def test_table_has_percentages_and_a_gap_where_nothing_was_measured():
    results = {"whole": {"es-en": {"wer": 0.038, "cer": 0.01, "bleu": 45.25, "chrf": 60.0}}}
    results["half"] = {"es-en": {"wer": 1.5, "cer": 0.5}}
    results["sure"] = {"es-en": {"wer": 0.25, "wer_low": 0.2, "wer_high": 0.304, "cer": 0.1}}
    lines = quality.table(json.loads(json.dumps(results))).splitlines()

    assert lines[1].split() == ["whole", "es-en", "3.8", "1.0", "45.2", "60.0"]
    assert lines[2].split() == ["half", "es-en", "150.0", "50.0", "-", "-"]
    assert lines[3].split() == ["sure", "es-en", "25.0", "(20.0-30.4)", "10.0", "-", "-"]
    assert len({len(line) for line in lines}) == 1


def test_noise_is_the_same_every_time_and_of_many_kinds():
    clips = quality.noises(8)

    assert len({clip.tobytes() for clip in clips}) == 8
    assert all(0 < np.abs(clip).max() <= 1 for clip in clips)
    np.testing.assert_array_equal(clips[5], quality.noises(6)[5])


def test_noise_counts_when_nothing_is_heard():
    def hear(model, waveform, source, target):
        return ("", "") if len(waveform) > 3 else ("uh", "")

    assert quality.silent_share("model", [SILENCE[:n] for n in (1, 10, 20, 30)], "es", "en", hear) == 0.75
