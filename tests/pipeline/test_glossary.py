"""Glossaries: what is one, what it says of texts, and streams that have one."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Batch, run_alone
from pipeline.config import AudioFormat, StreamConfig
from pipeline.gemma import bias
from pipeline.gemma.bias import Pull
from pipeline.glossary import check_glossary, read_glossary, renderings, says, spellings
from pipeline.speech import SpeechStarted
from pipeline.stream import Stream
from pipeline.translation import SpeechTranslator
from pipeline.wire.events import Transcript, Translation
from tests.conftest import ROOT
from tests.pipeline.test_translation import BRIEF, CONFIG, texts, translate

GLOSSARY = ("Belén", {"es": "gato", "en": "tomcat"}, {"es": "Ana"})


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


WRITTEN = """\
es\ten\tfr
coche\tautomobile

 Ana Belén\x20
gato\t\tchat
\tC++
perro\t
\t\t
"""


def test_people_write_terms_in_columns():
    glossary = (
        {"es": "coche", "en": "automobile"},
        "Ana Belén",
        {"es": "gato", "fr": "chat"},
        {"en": "C++"},
        {"es": "perro"},
    )

    assert read_glossary(WRITTEN) == glossary
    assert read_glossary(WRITTEN.replace("\n", "\r\n")) == glossary


def test_the_glossary_in_the_docs_is_one():
    (example,) = re.findall(
        r"^```\n(es\t.*?)^```$", (ROOT / "docs/clients.md").read_text("utf-8"), re.M | re.S
    )

    assert read_glossary(example) == (
        {"es": "coche", "en": "automobile", "fr": "automobile"},
        {"es": "grafo", "en": "graph"},
        "Ana Belén",
    )


def test_people_write_names_in_lines():
    assert read_glossary("es\nAna Belén\n\nRISC-V") == ("es", "Ana Belén", "RISC-V")
    assert read_glossary("\n") == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Ana\ncoche\tcar", r"line 2 has a tab, so the first line has to name the languages"),
        ("coche\tcar\ngato\tcat", r"line 1, .* columns: 'coche' is not a language code such as 'es'"),
        ("es\ten\tes\n", "line 1 names a language twice"),
        ("es\ten\n\na\tb\tc", "line 3 has 3 columns, the first line names 2 languages"),
        ("es\ten\n\n" + "a" * 61 + "\tb", "line 3, es, must be a term of 1 to 60 characters"),
        ("Ana\n...", "line 2 must be printable, with a letter"),
        ("a\n" * 101, "at most 100 entries, this one has 101"),
    ],
)
def test_what_is_written_wrongly_is_named_with_its_line(text, says):
    with pytest.raises(ValueError, match=says):
        read_glossary(text)


@given(st.lists(st.text(max_size=8) | st.sampled_from(["es\ten", "a\tb", "\t", "gato"]), max_size=6))
def test_whatever_is_written_is_a_glossary_or_refused(lines):
    glossary = ()
    with suppress(ValueError):
        glossary = read_glossary("\n".join(lines))
    check_glossary(glossary)


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


def test_terms_are_tokenised_once_in_a_stream(babbler, heard, monkeypatch):
    """Not for each utterance; and anew when there are others."""
    encoded, encode = [], babbler.tokenizer.encode
    monkeypatch.setattr(babbler.tokenizer, "encode", lambda text: encoded.append(text) or encode(text))
    translator, counts = SpeechTranslator(babbler, BRIEF(glossary=("zyxwv",))), []
    for speech in heard:
        translator.push(speech)
        if isinstance(speech, SpeechStarted):
            counts.append(encoded.count(" zyxwv"))
            translator.update(glossary=("zyxwv",) if len(counts) < 2 else ("zyxwv", "vwxyz"))

    assert counts == [1, 1, 2]


def test_a_stream_of_audio_has_one(babbler, talk, strong):
    config = StreamConfig(max_new_tokens=8, glossary=({"es": "gato"},))
    stream = Stream(babbler, "es", ["en"], AudioFormat("pcm_f32le"), config)
    events = [*stream.feed(talk.tobytes()), *stream.close()]

    assert all(says(event.stable, "gato") for event in texts(events, Transcript) if event.final)
