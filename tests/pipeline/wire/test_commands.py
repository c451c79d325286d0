"""parse_command turns text into commands, or says what was wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import AudioFormat, ContextConfig, PolicyConfig
from pipeline.errors import ProtocolError
from pipeline.wire.commands import Flush, Mark, Resume, Start, Stop, Update, encode_command, parse_command

ACCEPTED = {
    '{"type":"start"}': Start(),
    '{"type":"start","source":"en","targets":["es","pt-BR"],"partials":false}': Start(
        source="en", targets=("es", "pt-BR"), partials=False
    ),
    '{"type":"start","audio":{"encoding":"mulaw","sample_rate":8000,"channels":2}}': Start(
        audio=AudioFormat("mulaw", 8000, 2)
    ),
    '{"type":"start","audio":{"channels":2}}': Start(audio=AudioFormat(channels=2)),
    '{"type":"start","resume":{"stream_id":"a","token":"b","after_seq":7}}': Start(
        resume=Resume("a", "b", 7)
    ),
    '{"type":"start","resume":{"stream_id":"a","token":"b"}}': Start(resume=Resume("a", "b", 0)),
    '{"type":"flush"}': Flush(),
    '{"type":"mark"}': Mark(),
    '{"id":"Ende — 1","type":"mark"}': Mark("Ende — 1"),
    '{"type":"update","targets":["fr"]}': Update(targets=("fr",)),
    '{"type":"update"}': Update(),
    '{"type":"stop"}': Stop(),
}

REFUSED = {
    # not a message
    "": ("bad_message", "not JSON", "JSON object"),
    "start": ("bad_message", "not JSON", "JSON object"),
    "[" * 100_000: ("bad_message", "nested too deeply", "JSON object"),
    '{"type":"mark","id":' + "[" * 980 + "]" * 980 + "}": ("bad_message", "nested too deeply|mark.id", ""),
    '{"type":"start","partials":NaN}': ("bad_message", "NaN", "JSON"),
    "[]": ("bad_message", r"must be a JSON object, got \[\]", ""),
    '"start"': ("bad_message", 'must be a JSON object, got "start"', ""),
    # type
    "{}": ("unknown_type", "has no type", "start, flush, mark, update, stop"),
    '{"type":"begin"}': ("unknown_type", '"begin"', "start, flush, mark, update, stop"),
    '{"type":1}': ("unknown_type", "type 1", "start"),
    '{"type":["start"]}': ("unknown_type", r'\["start"\]', "start"),
    # fields
    '{"type":"start","from":"es"}': ("bad_message", 'no field "from"', "source, targets, audio"),
    '{"type":"stop","id":"x"}': ("bad_message", 'no field "id"', "no fields besides type"),
    '{"type":"start","partials":1}': ("bad_message", "start.partials", "true or false, got 1"),
    '{"type":"start","partials":null}': ("bad_message", "start.partials", "got null"),
    '{"type":"mark","id":7}': ("bad_message", "mark.id", "string of at most 128"),
    '{"type":"mark","id":"' + "x" * 129 + '"}': ("bad_message", "mark.id", "at most 128"),
    '{"type":"mark","id":"\\ud800"}': ("bad_message", "mark.id", "printable"),
    '{"type":"mark","id":"a\\u0000"}': ("bad_message", "mark.id", "printable"),
    # languages
    '{"type":"start","source":"Spanish"}': ("unknown_language", "start.source", '"Spanish"'),
    '{"type":"start","source":"es,"}': (
        "unknown_language",
        "start.source",
        "several such as 'es,en', or 'auto'",
    ),
    '{"type":"start","source":"es,auto"}': ("unknown_language", "start.source", '"es,auto"'),
    '{"type":"start","source":"es,en,es"}': ("bad_message", "start.source", "twice"),
    '{"type":"start","source":5}': ("unknown_language", "start.source", "got 5"),
    '{"type":"start","targets":"en"}': ("bad_message", "start.targets", "list of 1 to 8"),
    '{"type":"start","targets":[]}': ("bad_message", "start.targets", "list of 1 to 8"),
    '{"type":"start","targets":["en","en"]}': ("bad_message", "start.targets", "twice"),
    '{"type":"update","targets":["en",null]}': ("unknown_language", r"update.targets\[1\]", "got null"),
    # audio
    '{"type":"start","audio":"pcm"}': ("bad_message", "start.audio", "JSON object"),
    '{"type":"start","audio":{"rate":8000}}': ("bad_message", '"rate"', "encoding, sample_rate, channels"),
    '{"type":"start","audio":{"encoding":"mp3"}}': ("bad_audio", "'mp3'", "pcm_s16le, pcm_f32le, mulaw"),
    '{"type":"start","audio":{"encoding":[]}}': ("bad_audio", "start.audio", "pcm_s16le"),
    '{"type":"start","audio":{"sample_rate":7999}}': ("bad_audio", "sample_rate", "8000 to 192000"),
    '{"type":"start","audio":{"channels":true}}': ("bad_audio", "channels", "1 to 8"),
    # resume
    '{"type":"start","resume":{"token":"b"}}': ("bad_message", "start.resume", "stream_id is missing"),
    '{"type":"start","resume":{"stream_id":"b"}}': ("bad_message", "start.resume", "token is missing"),
    '{"type":"start","resume":{"stream_id":"a","token":"b","after_seq":-1}}': (
        "bad_message",
        "start.resume.after_seq",
        "from 0 up, got -1",
    ),
    '{"type":"start","resume":{"stream_id":"a","token":"b","after_seq":1.5}}': (
        "bad_message",
        "start.resume.after_seq",
        "whole number",
    ),
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepts(text):
    assert parse_command(text) == ACCEPTED[text]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:60])
def test_refuses_and_names_what_was_wrong(text):
    code, *fragments = REFUSED[text]

    with pytest.raises(ProtocolError, match=fragments[0]) as caught:
        parse_command(text)

    assert caught.value.code == code
    assert fragments[1] in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isascii()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
CODES = {"bad_message", "unknown_type", "bad_audio", "unknown_language"}
FIELDS = st.sampled_from(
    ["source", "targets", "audio", "partials", "resume", "id", "encoding", "sample_rate", "channels"]
)


@given(st.text())
def test_any_text_is_a_command_or_a_protocol_error(text):
    _parse(text)


@given(
    st.sampled_from(["start", "flush", "mark", "update", "stop"]),
    st.dictionaries(FIELDS, JSON | st.dictionaries(FIELDS, JSON, max_size=3), max_size=4),
)
def test_any_fields_are_a_command_or_a_protocol_error(kind, fields):
    _parse(json.dumps({"type": kind, **fields}))


def _parse(text):
    try:
        outcome = parse_command(text)
    except ProtocolError as error:
        outcome = error
    assert isinstance(outcome, Start | Flush | Mark | Update | Stop | ProtocolError)
    assert getattr(outcome, "code", "bad_message") in CODES
    str(outcome).encode()


@pytest.mark.parametrize(
    "command",
    [
        Start(),
        Start("en", ("es", "fr"), AudioFormat("opus"), partials=False),
        Start(resume=Resume("stream", "token", 7)),
        Flush(),
        Mark("here"),
        Update(),
        Update(targets=("fr",), partials=True),
        Update(context=ContextConfig("Ana Belén", 2)),
        Update(glossary=("Ana Belén", {"es": "gato"})),
        Stop(),
    ],
    ids=str,
)
def test_what_a_client_writes_is_what_is_read(command):
    assert parse_command(encode_command(command)) == command


def test_a_stream_may_choose_its_policy_and_ask_for_word_times():
    start = parse_command(
        '{"type": "start", "policy": {"kind": "attention", "newest": 0.32}, "word_times": true}'
    )

    assert start == Start(policy=PolicyConfig("attention", newest=0.32), word_times=True)
    assert parse_command(encode_command(start)) == start


def test_a_stream_may_tell_what_is_known():
    start = parse_command('{"type": "start", "context": {"text": "Ana Bel\u00e9n", "sentences": 3}}')

    assert start == Start(context=ContextConfig("Ana Belén", 3))
    assert parse_command(encode_command(start)) == start
    assert parse_command('{"type": "update", "context": {}}') == Update(context=ContextConfig())


def test_a_stream_may_have_a_glossary():
    start = parse_command('{"type": "start", "glossary": ["Ana Bel\u00e9n", {"es": "gato", "en": "tomcat"}]}')

    assert start == Start(glossary=("Ana Belén", {"es": "gato", "en": "tomcat"}))
    assert parse_command(encode_command(start)) == start
    assert parse_command('{"type": "update", "glossary": []}') == Update(glossary=())


REFUSED_SETTINGS = {
    "policy": [
        ('"attention"', "policy must be a JSON object"),
        ('{"name": "x"}', 'policy has no field "name"'),
        ('{"kind": "luck"}', "unknown policy 'luck'; accepted are agreement, delay, attention"),
        ('{"agreement": 0}', "agreement must be a whole number from 1 to 10"),
        ('{"delay": "2"}', "delay must be a number from 0 to 30"),
        ('{"newest": 1e99}', "newest must be a number from 0 to 30"),
        ('{"kind": []}', "unknown policy"),
    ],
    "context": [
        ('"Ana"', "context must be a JSON object"),
        ('{"words": 1}', 'context has no field "words"; accepted: text, sentences'),
        ('{"text": 1}', "text must be a string of at most 500 characters"),
        (f'{{"text": "{"a" * 501}"}}', "text must be a string of at most 500 characters"),
        ('{"text": "\\ud800"}', "text must be one line of printable characters"),
        ('{"text": "a\\nb"}', "text must be one line of printable characters"),
        ('{"sentences": 21}', "sentences must be a whole number from 0 to 20, got 21"),
        ('{"sentences": true}', "sentences must be a whole number from 0 to 20, got True"),
        ('{"sentences": 1.0}', "sentences must be a whole number from 0 to 20"),
    ],
    "glossary": [
        ('"Ana"', "glossary must be a list"),
        ('["a"' + ', "a"' * 100 + "]", "a glossary must be a list of at most 100 entries"),
        ("[1]", "entry 0 must be a term, or an object of languages and their terms"),
        ("[{}]", "entry 0 must be a term, or an object of languages and their terms"),
        (f'["Ana", "{"a" * 61}"]', "entry 1 must be a term of 1 to 60 characters"),
        ('[""]', "entry 0 must be a term of 1 to 60 characters"),
        ('["\\ud800"]', "entry 0 must be printable, with a letter or digit in it and no space around it"),
        ('["a\\nb"]', "entry 0 must be printable"),
        ('[" Ana"]', "entry 0 must be printable"),
        ('["?"]', "entry 0 must be printable"),
        ('[{"Spanish": "gato"}]', "entry 0: 'Spanish' is not a language code such as 'es'"),
        ('[{"es": 1}]', "entry 0, es, must be a term of 1 to 60 characters"),
    ],
}
"""By field: values that it may not have, as JSON, and what is said of them."""


@pytest.mark.parametrize(
    ("kind", "field", "value", "sentence"),
    [
        (kind, field, *refused)
        for field, values in REFUSED_SETTINGS.items()
        for kind in (("start",) if field == "policy" else ("start", "update"))
        for refused in values
    ],
)
def test_a_setting_that_is_none_is_refused_with_a_sentence(kind, field, value, sentence):
    with pytest.raises(ProtocolError) as refused:
        parse_command(f'{{"type": "{kind}", "{field}": {value}}}')

    assert refused.value.code == "bad_message"
    assert sentence in str(refused.value)


@pytest.mark.parametrize("source", ["auto", "es,en", "es,en,pt-BR"])
def test_the_language_may_be_left_to_be_detected(source):
    assert parse_command(json.dumps({"type": "start", "source": source})) == Start(source=source)
