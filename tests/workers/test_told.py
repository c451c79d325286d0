"""Whatever point a stream is heard again from, what is news behind what was told is what was missing."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire import events
from pipeline.wire.events import Ack, SpeechEnd, SpeechStart, Transcript, Translation
from workers.told import Told


def said(rng, utterances=4):
    """Events of a stream: the finals are always the same, and when texts become stable is not."""
    made, now = [], 0.0
    for utterance in range(utterances):
        about = {"utterance": utterance, "start": now, "tentative": ""}
        made.append(SpeechStart(utterance=utterance, time=now, audio_time=now))
        text = f"utterance {utterance} is this"
        stable = 0
        for _ in range(rng.randrange(4)):
            now += 0.5
            stable = rng.randint(stable, len(text))
            partial = {**about, "end": now, "stable": text[:stable], "final": False, "audio_time": now}
            made += [Transcript(**partial), Translation(**partial, target="en")]
        now = (utterance + 1) * 10.0
        final = {**about, "end": now, "stable": text, "final": True, "audio_time": now}
        made.append(SpeechEnd(utterance=utterance, time=now, audio_time=now))
        made += [Transcript(**final), Translation(**final, target="en"), Ack(audio_time=now)]
    return made


@given(st.randoms(use_true_random=False), st.integers(0, 60))
def test_a_replay_adds_what_is_missing_and_takes_nothing_back(rng, cut):
    first, second = said(rng), said(random.Random(rng.random()))
    told, out = Told(), first[:cut]
    for event in out:
        told.note(event)
    for event in second:
        if told.is_news(event):
            told.note(event)
            out.append(event)

    once = [(type(e), e.utterance) for e in out if isinstance(e, SpeechStart | SpeechEnd)]
    finals = [(e.type, e.utterance, e.stable) for e in out if isinstance(e, events.UtteranceText) and e.final]
    assert len(once) == len(set(once)) == 8
    assert finals == [
        (e.type, e.utterance, e.stable) for e in first if isinstance(e, events.UtteranceText) and e.final
    ]
    stable = {}
    for event in out:
        if isinstance(event, events.UtteranceText):
            key = (event.type, event.utterance)
            assert event.stable.startswith(stable.get(key, ""))
            stable[key] = event.stable
    acknowledged = [event.audio_time for event in out if isinstance(event, Ack)]
    assert acknowledged == sorted(set(acknowledged))
    assert told.utterances == 4


def test_stable_text_of_the_utterance_without_a_final_is_remembered():
    told = Told()
    about = {"start": 0.0, "end": 1.0, "tentative": ""}
    told.note(Transcript(**about, utterance=0, stable="uno", final=True))
    told.note(Transcript(**about, utterance=1, stable="do", final=False))
    told.note(Translation(**about, utterance=1, stable="tw", final=False, target="en"))

    assert (told.utterances, told.shown, told.language) == (1, {"": "do", "en": "tw"}, "")


def test_the_language_that_was_detected_is_remembered_until_the_final():
    told = Told()
    about = {"utterance": 0, "start": 0.0, "end": 1.0}
    languages = []
    for language, final in ((None, False), ("es", False), ("es", True), (None, False)):
        number = len(languages) // 3
        fields = {**about, "utterance": number, "stable": "", "tentative": "" if final else "no"}
        told.note(Transcript(**fields, language=language, final=final))
        languages.append(told.language)

    assert languages == ["", "es", "", ""]
