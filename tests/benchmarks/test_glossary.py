"""Terms of sentences, and how it is counted which of them are found."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import glossary
from benchmarks.glossary import Case
from benchmarks.quality import Clip, encode, spoken
from pipeline.gemma import bias
from pipeline.gemma.bias import Pull
from pipeline.training.engines import held_out_voices

PAIRS = [
    ("Ayer vi a Zira y a Mary.", "I saw Zira and Mary yesterday."),
    ("El coche es de mi hermana.", "The car is my sister's."),
    ("Zira tiene un coche.", "Zira has an auto."),
    ("Ya.", "Now."),
]


def test_names_stand_on_both_sides():
    assert [case.entry for case in glossary.names(PAIRS, ("es", "en"))] == ["Zira", "Zira"]
    assert len(glossary.names([PAIRS[0]] * 5, ("es", "en"))) == glossary.MOST_SENTENCES


def test_words_are_long_and_stand_in_one_sentence():
    assert glossary.words(PAIRS, ("es", "en")) == [Case(*PAIRS[1], {"es": "hermana"})]


def test_pairs_are_rendered_in_another_way_in_the_reference():
    (case,) = glossary.renderings(PAIRS, ("es", "en"))

    assert case.meant == "The automobile is my sister's."
    assert case.entry == {"es": "coche", "en": "automobile"}


def test_every_pair_has_two_renderings():
    for pairs in glossary.PAIRS.values():
        assert all(usual != other for usual, other in pairs.values())


def test_terms_are_counted_where_they_belong_and_where_they_do_not():
    cases = [Case("Soy Zira.", "I am Zira.", "Zira"), Case("El gato.", "The cat.", {"es": "gato"})]
    heard = [("Soy zira.", "I am Zira."), ("Gato Zira.", "The gato.")]

    assert glossary.count(cases, heard, ("es", "en")) == {
        "recall_transcript": 0.5,
        "recall_translation": 1.0,
        "inserted": 1,
    }
    assert "recall_translation" not in glossary.count(cases[1:], heard[1:], ("es", "en"))


@pytest.mark.usefixtures("espeak_ng")
def test_terms_reach_the_texts_that_are_counted(babbler, monkeypatch):
    """When they draw so much that nothing else is said."""
    for name, once in (("SPELLED", False), ("RENDERED", True)):
        monkeypatch.setattr(bias, name, Pull(500.0, 1000.0, once))
    (clip,) = spoken([("¡Hola!", "")], held_out_voices("es")[:1])
    speech = [encode(babbler, clip.waveform)]
    (plain,), (given,) = (glossary.answers(babbler, speech, ("es", "en"), terms) for terms in ((), ["Zira"]))

    assert "Zira" not in "".join(plain)
    assert all(glossary.has(text, "Zira") for text in given)


@pytest.mark.parametrize("takes", [False, True])
def test_clips_are_heard_without_and_with_their_glossary(babbler, monkeypatch, takes):
    """And told in a context, by a model that was made for one."""
    seen = []
    monkeypatch.setattr(babbler.prompt, "_context", "Known: {context}" if takes else "")

    def answers(model, speech, direction, entries, context):
        seen.append((len(speech), direction, entries, context))
        return [("Zira", "Zira")] * len(speech)

    monkeypatch.setattr(glossary, "answers", answers)
    cases = glossary.names(PAIRS, ("es", "en"))
    clips = [Clip(np.zeros(8_000, np.float32), case.said, case.meant) for case in cases]
    result = glossary.evaluate(babbler, cases, clips, ("es", "en"))

    expected = [(2, ("es", "en"), (), ""), (2, ("es", "en"), ["Zira"], ""), (2, ("es", "en"), (), "Zira")]
    assert seen == expected[: 2 + takes]
    assert ("context" in result) == takes
    assert result["clips"] == 2
    assert result["terms"] == 1
    assert result["with"]["recall_transcript"] == 1.0
    assert glossary.table({"names": {"es-en": result}}).count("100%") == 2 * (2 + takes)


def test_terms_are_told_as_far_as_there_is_room():
    assert glossary.told(["Zira", {"es": "hermana"}]) == "Zira, hermana"
    assert glossary.told([{"es": "coche", "en": "automobile"}]) == ""
    assert len(glossary.told(["a" * 60] * 20)) == 8 * 60 + 7 * 2
