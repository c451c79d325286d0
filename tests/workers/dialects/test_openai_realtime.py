"""What both kinds of sessions share, whatever comes in."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ProtocolError
from pipeline.wire import commands
from workers.dialects.base import Reply
from workers.dialects.openai_realtime import language_in, section, source_in
from workers.dialects.openai_transcription import TranscriptionSession
from workers.dialects.openai_translation import TranslationSession

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(
    [
        "session.update",
        "transcription_session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "session.input_audio_buffer.append",
        "session.close",
    ]
)
INPUT = st.fixed_dictionaries(
    {},
    optional={
        "format": st.fixed_dictionaries({}, optional={"type": ANYTHING, "rate": ANYTHING}) | ANYTHING,
        "transcription": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("language", "languages", "keywords"), ANYTHING)
        )
        | ANYTHING,
        "turn_detection": ANYTHING,
    },
)
SESSIONS = ANYTHING | st.fixed_dictionaries(
    {},
    optional={
        "type": ANYTHING,
        "audio": st.fixed_dictionaries({}, optional={"input": INPUT | ANYTHING, "output": ANYTHING})
        | ANYTHING,
        "input_audio_format": ANYTHING,
        "input_audio_transcription": ANYTHING,
    },
)
EVENTS = st.fixed_dictionaries(
    {"type": KINDS | ANYTHING}, optional={"session": SESSIONS, "audio": ANYTHING, "event_id": ANYTHING}
)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TranscriptionSession({}, beta=False),
        lambda: TranscriptionSession({}, beta=True),
        lambda: TranslationSession({}),
    ],
)
@given(messages=st.lists(EVENTS.map(json.dumps) | st.text(max_size=30) | st.binary(max_size=9), max_size=6))
def test_nothing_breaks_a_session(make, messages):
    """Whatever comes in is carried out or answered; a stream is started at most once and before its audio."""
    session = make()
    started = False
    for message in messages:
        for step in session.receive(message):
            if isinstance(step, Reply):
                assert "type" in json.loads(step.text)
            elif isinstance(step, commands.Start):
                assert not started
                started = True
            else:
                assert started


def test_sections():
    assert section({"a": {"b": {"c": 1}}}, "a", "b") == {"c": 1}
    assert section({"a": None}, "a", "b") == {}
    with pytest.raises(ProtocolError, match=r"a\.b must be an object"):
        section({"a": {"b": []}}, "a", "b")


def test_languages():
    assert language_in({"language": "pt-BR"}, "language") == "pt"
    assert language_in({"language": None}, "language") is None
    with pytest.raises(ProtocolError, match="language code"):
        language_in({"language": ["pt"]}, "language")


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({}, None),
        ({"language": None, "languages": []}, None),
        ({"language": "es-MX"}, "es"),
        ({"language": "es-ES,en_US"}, "es,en"),
        ({"languages": ["es-ES", "en", "es-MX"]}, "es,en"),
        ({"language": "pt", "languages": ["es"]}, "pt"),
    ],
)
def test_what_is_spoken(given, source):
    assert source_in(given) == source


@pytest.mark.parametrize("given", [{"languages": "es"}, {"languages": [""]}, {"language": 1}])
def test_what_names_no_language(given):
    with pytest.raises(ProtocolError, match="such as 'en'"):
        source_in(given)


@pytest.mark.parametrize("kind", [partial(TranscriptionSession, beta=False), TranslationSession])
@pytest.mark.parametrize(
    ("query", "languages", "source"),
    [
        ({}, ("es", "en"), "auto"),
        ({}, ("fr",), "fr"),
        ({}, (), "es"),
        ({"source": "en-GB"}, ("es", "en"), "en"),
        ({"source": "es-ES,en-GB"}, ("es", "en", "fr"), "es,en"),
    ],
)
def test_a_language_that_nobody_names_is_detected_where_there_are_several(kind, query, languages, source):
    session = kind(query, languages)
    prefix = "session." if isinstance(session, TranslationSession) else ""
    start, _ = session.receive(json.dumps({"type": f"{prefix}input_audio_buffer.append", "audio": "AAA="}))

    assert start.source == source
