"""Glossaries: what is one, what it says of texts, and streams that have one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Batch, run_alone
from pipeline.config import AudioFormat, StreamConfig
from pipeline.gemma import bias
from pipeline.gemma.bias import Pull
from pipeline.glossary import check_glossary, renderings, says, spellings
from pipeline.speech import SpeechEncoder, SpeechStarted
from pipeline.stream import Stream
from pipeline.translation import SpeechTranslator
from pipeline.wire.events import Transcript, Translation
from tests.pipeline.test_translation import BRIEF, CONFIG, texts, translate

GLOSSARY = ("Belén", {"es": "gato", "en": "tomcat"}, {"es": "Ana"})


@pytest.fixture(scope="module")
def heard(babbler, talk):
    """Speech events of three utterances."""
    encoder = SpeechEncoder(babbler, CONFIG)
    return [*encoder.push(talk.tobytes()), *encoder.flush()]


@pytest.fixture
def strong(monkeypatch):
    """Terms that draw so much that nothing else is said."""
    for name, once in (("SPELLED", False), ("RENDERED", True)):
        monkeypatch.setattr(bias, name, Pull(500.0, 1000.0, once))


def test_terms_have_languages():
    assert spellings(GLOSSARY, "es") == ["Belén", "gato", "Ana"]
    assert spellings(GLOSSARY, "fr") == ["Belén"]


def test_what_is_said_is_rendered():
    assert renderings(GLOSSARY, "es", "en", "Belén y el gato de Ana") == ["tomcat"]
    assert renderings(GLOSSARY, "es", "fr", "Belén y el gato") == []
    assert renderings(GLOSSARY, "en", "es", "A Tomcat!") == ["gato"]
    assert renderings(GLOSSARY, "es", "en", "Gato, gato, gatos.") == ["tomcat"] * 2
    assert renderings(GLOSSARY, "es", "en", "Los gatos.") == []


@pytest.mark.parametrize(
    ("text", "term", "is_said"),
    [
        ("El GATO.", "gato", True),
        ("gatos", "gato", False),
        ("(C++)", "C++", True),
        ("a.b", "a+b", False),
        ("Soy Belén.", "Belé", False),
        ("", "a", False),
    ],
)
def test_a_term_is_said_where_it_is_a_word(text, term, is_said):
    assert says(text, term) is is_said


@given(st.text(max_size=20), st.text(min_size=1, max_size=5))
def test_any_term_can_be_looked_for(text, term):
    says(text, term)


def test_a_stream_refuses_what_is_no_glossary():
    check_glossary(["a" * 60, {"es": "C++"}] * 50)
    for glossary in (
        "Ana",
        ["a"] * 101,
        ["a" * 61],
        [""],
        [" a"],
        ["a\nb"],
        ["..."],
        [{}],
        [{"x": "a"}],
        [3],
    ):
        with pytest.raises(ValueError, match=r"glossary must|entry 0"):
            StreamConfig(glossary=glossary)


def test_terms_are_spelled_and_rendered(babbler, heard, strong):
    """From partial texts to the final ones, with drafts in between."""
    term = {"es": "gato", "en": "tomcat"}
    events = translate(babbler, heard, BRIEF(glossary=(term,), max_new_tokens=12))

    for kind, language in ((Transcript, "es"), (Translation, "en")):
        finals = [event.stable for event in texts(events, kind) if event.final]
        assert len(finals) == 3
        assert all(term[language] in final.lower() for final in finals)


def test_a_rendering_needs_its_term(babbler, heard, strong):
    """And a language of which the glossary has no term is left as it is."""
    plain = translate(babbler, heard)

    assert translate(babbler, heard, BRIEF(glossary=({"fr": "gato", "en": "tomcat"},))) == plain
    assert translate(babbler, heard, BRIEF(glossary=())) == plain


def test_what_a_stream_says_does_not_depend_on_those_beside_it(babbler, heard):
    configs = [BRIEF(), BRIEF(glossary=GLOSSARY), BRIEF(glossary=("Zyx",)), BRIEF()]
    alone = [translate(babbler, heard, config) for config in configs]
    pool, batch = babbler.new_pool(), Batch(babbler.step)

    def whole(translator):
        events = []
        for event in heard:
            events += yield from translator.steps(event)
        return events

    for key, config in enumerate(configs):
        batch.add(key, whole(SpeechTranslator(babbler, config, pool)))
    beside = {}
    while batch:
        beside |= dict(batch.step())

    assert [beside[key] for key in range(len(configs))] == alone


@pytest.mark.parametrize("move", [1, 2])
def test_another_translator_goes_on_with_the_glossary(babbler, heard, move):
    config = BRIEF(glossary=GLOSSARY)
    translator, events, begun = SpeechTranslator(babbler, config), [], 0
    for speech in heard:
        if isinstance(speech, SpeechStarted):
            if begun == move:
                checkpoint, translator = translator.checkpoint(), SpeechTranslator(babbler, CONFIG)
                translator.resume(checkpoint, begun, {})
            begun += 1
        events += run_alone(translator.steps(speech), babbler.step)

    assert events == translate(babbler, heard, config)


def test_an_updated_glossary_holds_from_the_next_utterance_on(babbler, heard, strong):
    translator, events = SpeechTranslator(babbler, CONFIG), []
    for speech in heard:
        events += run_alone(translator.steps(speech), babbler.step)
        if isinstance(speech, SpeechStarted):
            translator.update(glossary=({"es": "gato"},))
    finals = [event.stable for event in texts(events, Transcript) if event.final]

    assert [says(final, "gato") for final in finals] == [False, True, True]


def test_a_stream_of_audio_has_one(babbler, talk, strong):
    config = StreamConfig(max_new_tokens=8, glossary=({"es": "gato"},))
    stream = Stream(babbler, "es", ["en"], AudioFormat("pcm_f32le"), config)
    events = [*stream.feed(talk.tobytes()), *stream.close()]

    assert all(says(event.stable, "gato") for event in texts(events, Transcript) if event.final)
