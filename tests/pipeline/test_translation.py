"""The back half: hypotheses that agree become stable, and every utterance gets its finals."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

from pipeline.config import AudioFormat, StreamConfig
from pipeline.errors import LanguageError
from pipeline.speech import Silence, SpeechEncoder, SpeechEnded, SpeechHeard, SpeechStarted
from pipeline.translation import SpeechTranslator
from pipeline.wire.events import Ack, SpeechEnd, SpeechStart, Transcript, Translation

BRIEF = partial(StreamConfig, audio=AudioFormat("pcm_f32le"), max_new_tokens=6)
"""A random model never ends by itself."""

CONFIG = BRIEF()


@pytest.fixture(scope="module")
def heard(babbler, talk):
    """Speech events of three utterances."""
    encoder = SpeechEncoder(babbler, CONFIG)
    return [*encoder.push(talk.tobytes()), *encoder.flush()]


def translate(model, heard, config=CONFIG):
    translator = SpeechTranslator(model, config)
    return [event for speech in heard for event in translator.push(speech)]


def texts(events, kind, utterance=None):
    return [e for e in events if isinstance(e, kind) and utterance in (None, e.utterance)]


def recut(heard, size):
    """The same soft tokens, ``size`` at a time."""
    for event in heard:
        if isinstance(event, SpeechHeard):
            for begin in range(0, len(event.tokens), size):
                yield SpeechHeard(
                    audio_time=event.audio_time, time=event.time, tokens=event.tokens[begin : begin + size]
                )
        else:
            yield event


def test_each_utterance_gets_one_final_of_each_kind_in_order(babbler, heard):
    events = translate(babbler, heard)
    finals = [(type(e), e.utterance) for e in events if getattr(e, "final", False)]

    assert finals == [(kind, number) for number in range(3) for kind in (Transcript, Translation)]


def test_events_of_an_utterance_come_in_their_order(babbler, heard):
    events = [e for e in translate(babbler, heard) if getattr(e, "utterance", 1) == 1]
    kinds = [type(e) for e in events if not isinstance(e, Ack)]

    assert kinds[0] is SpeechStart
    assert kinds[-3:] == [SpeechEnd, Transcript, Translation]


def test_stable_text_only_grows_into_the_final(babbler, heard):
    events = translate(babbler, heard)
    for kind in (Transcript, Translation):
        for number in range(3):
            of_utterance = texts(events, kind, number)
            assert len(of_utterance) > 1
            for before, after in itertools.pairwise(of_utterance):
                assert after.stable.startswith(before.stable)
            assert of_utterance[-1].final
            assert of_utterance[-1].tentative == ""
            assert not any(e.final for e in of_utterance[:-1])


def test_nothing_is_sent_twice(babbler, heard):
    partial = [e for e in texts(translate(babbler, heard), Transcript, 0) if not e.final]
    states = [(e.stable, e.tentative) for e in partial]

    assert all(a != b for a, b in itertools.pairwise(states))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_texts_do_not_depend_on_how_soft_tokens_come(babbler, heard, size):
    def said(events):
        return [
            (e.utterance, e.stable, e.tentative) for e in events if isinstance(e, (Transcript, Translation))
        ]

    assert said(translate(babbler, recut(heard, size))) == said(translate(babbler, heard))


def test_final_audio_is_acknowledged_behind_its_finals(babbler, heard):
    events = translate(babbler, heard)
    for number in range(3):
        finals = [i for i, e in enumerate(events) if getattr(e, "final", False) and e.utterance == number]
        ack = events[finals[-1] + 1]
        assert isinstance(ack, Ack)
        assert ack.audio_time == events[finals[-1]].end
    acks = [e.audio_time for e in events if isinstance(e, Ack)]
    assert acks == sorted(acks)


def test_silence_is_acknowledged(babbler):
    translator = SpeechTranslator(babbler, CONFIG)

    assert translator.push(Silence(audio_time=5.0, time=4.7)) == [Ack(audio_time=4.7)]


def test_without_partials_there_are_finals_alone(babbler, heard):
    events = translate(babbler, heard, BRIEF(partials=False))

    assert all(e.final for e in texts(events, Transcript))
    assert len(texts(events, Transcript)) == 3


def test_several_targets_share_one_transcript(babbler, heard):
    events = translate(babbler, heard, BRIEF(targets=("en", "es")))
    finals = [e for e in texts(events, Translation) if e.final]

    assert [(e.utterance, e.target) for e in finals] == [(n, t) for n in range(3) for t in ("en", "es")]
    assert len([e for e in texts(events, Transcript) if e.final]) == 3


def test_the_first_target_is_translated_as_if_it_were_the_only_one(babbler, heard):
    config = BRIEF(targets=("en", "es"), partials=False)
    both = [e.stable for e in texts(translate(babbler, heard, config), Translation) if e.target == "en"]
    alone = translate(babbler, heard, BRIEF(targets=("en",), partials=False))

    assert both == [e.stable for e in texts(alone, Translation)]


def test_an_update_holds_from_the_next_utterance_on(babbler, heard):
    translator = SpeechTranslator(babbler, CONFIG)
    events = []
    for speech in heard:
        events += translator.push(speech)
        if isinstance(speech, SpeechStarted):
            translator.update(targets=("es",), partials=False)
    finals = [e for e in texts(events, Translation) if e.final]

    assert [(e.utterance, e.target) for e in finals] == [(0, "en"), (1, "es"), (2, "es")]
    assert {e.utterance for e in texts(events, Transcript) if not e.final} == {0}


def test_a_language_that_the_model_does_not_know_changes_nothing(babbler, heard):
    translator = SpeechTranslator(babbler, CONFIG)
    with pytest.raises(LanguageError, match="'de'"):
        translator.update(targets=("de",), partials=False)
    events = [event for speech in heard for event in translator.push(speech)]

    assert {e.target for e in texts(events, Translation)} == {"en"}
    assert any(not e.final for e in texts(events, Transcript))


@pytest.mark.parametrize("config", [BRIEF(source="de"), BRIEF(targets=("en", "xx"))])
def test_unknown_languages_are_refused_at_the_start(babbler, config):
    with pytest.raises(LanguageError, match="this model knows es, en"):
        SpeechTranslator(babbler, config)


def test_an_utterance_without_soft_tokens_has_finals_too(babbler):
    translator = SpeechTranslator(babbler, CONFIG)
    translator.push(SpeechStarted(audio_time=1.0, time=0.9))
    events = translator.push(SpeechEnded(audio_time=1.0, time=0.95))

    assert [type(e) for e in events] == [SpeechEnd, Transcript, Translation, Ack]


def test_a_text_that_does_not_end_is_ended(babbler):
    """A model that babbles on is stopped in proportion to the audio."""
    translator = SpeechTranslator(babbler, StreamConfig(partials=False))
    translator.push(SpeechStarted(audio_time=1.0, time=0.0))
    tokens = np.random.default_rng(0).normal(size=(2, babbler.config.text.hidden_size)).astype(np.float32)
    translator.push(SpeechHeard(audio_time=1.0, time=0.3, tokens=tokens))
    events = translator.push(SpeechEnded(audio_time=1.0, time=0.3))

    (final,) = texts(events, Transcript)
    assert len(babbler.tokenizer.encode(f" {final.stable}")) <= 2 * (16 + 3 * 2)


class Scripted:
    """A model that says, hypothesis by hypothesis, the texts of a script: a transcript, a translation ..."""

    def __init__(self, model, *script):
        self._model = model
        self._script = iter(script)
        self.prompt, self.tokenizer, self.config = model.prompt, model.tokenizer, model.config
        self.new_cache, self.extend = model.new_cache, model.extend

    def greedy(self, cache, token_ids, room, stop_ids, draft):
        self._model.extend(cache, token_ids)
        text, given = next(self._script), self.tokenizer.decode(token_ids)
        stable = next((n for n in range(len(text), 0, -1) if given.endswith(f" {text[:n]}")), 0)
        return self.tokenizer.encode(text[stable:] if stable else f" {text}" if text else "")


def hear_script(babbler, *script):
    """Events of an utterance with a hypothesis per soft token and one at its end."""
    config = StreamConfig(partial_interval=0.16)
    translator = SpeechTranslator(Scripted(babbler, *script), config)
    tokens = np.zeros((1, babbler.config.text.hidden_size), np.float32)
    events = translator.push(SpeechStarted(audio_time=0.0, time=0.0))
    for number in range(1, (len(script) + 1) // 2):
        events += translator.push(SpeechHeard(audio_time=1.0, time=number * 0.16, tokens=tokens))
    return [*events, *translator.push(SpeechEnded(audio_time=1.0, time=1.0))]


def test_what_two_hypotheses_agree_on_is_stable_and_given_to_the_next(babbler):
    events = hear_script(
        babbler,
        *("el gato", "the cat"),
        *("el gato come", "the cat eats"),
        *("el gato come aquí.", "the cat eats here."),
    )

    assert [(e.stable, e.tentative, e.final) for e in texts(events, Transcript)] == [
        ("", "el gato", False),
        ("el gato", " come", False),
        ("el gato come aquí.", "", True),
    ]
    assert [(e.stable, e.tentative) for e in texts(events, Translation)][1:] == [
        ("the cat", " eats"),
        ("the cat eats here.", ""),
    ]


def test_a_translation_keeps_what_was_stable_when_its_transcript_vanishes(babbler):
    events = hear_script(babbler, *("sí", "yes of course"), *("sí", "yes of course not"), *("",))

    assert [(e.stable, e.final) for e in texts(events, Translation)] == [
        ("", False),
        ("yes of course", False),
        ("yes of course", True),
    ]
    assert [e.stable for e in texts(events, Transcript) if e.final] == [""]


def test_partial_texts_end_where_the_audio_heard_ends(babbler):
    events = hear_script(babbler, *("a b", "c d"), *("a b c", "c d e"), *("a b c d", "c d e f"))

    assert [e.end for e in texts(events, Transcript)] == [pytest.approx(0.16), pytest.approx(0.32), 1.0]
