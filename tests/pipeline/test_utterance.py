"""Speech without pauses: the window stays bounded, and at the seams no word is lost and none comes twice."""

from __future__ import annotations

import itertools
import random
import secrets

import numpy as np
import pytest

from pipeline.batching import run_alone
from pipeline.config import PolicyConfig, StreamConfig
from pipeline.speech import Silence, SpeechEnded, SpeechHeard, SpeechPaused, SpeechStarted
from pipeline.text.stability import words
from pipeline.translation import SpeechTranslator
from pipeline.utterance import (
    SPARE_TOKENS,
    STALL_SECONDS,
    TOKEN_SECONDS,
    TRANSCRIPT_TOKENS,
    TRANSLATION_TOKENS,
)
from pipeline.wire.events import Ack, Error, SpeechEnd, SpeechStart, Transcript, Translation
from tests.pipeline import oracle
from tests.pipeline.oracle import Oracle, soft_tokens, turn

POLICIES = [(PolicyConfig("agreement"), 600), (PolicyConfig("delay"), 200), (PolicyConfig("attention"), 200)]


def a_speech(seed, seconds, sentence=(3, 14), clauses=0.1):
    """Words of a speech without pauses, and for how many soft tokens each is spoken."""
    rng = random.Random(seed)
    said, counts, left = [], [], 0
    while sum(counts) * TOKEN_SECONDS < seconds:
        if not left:
            left = rng.randint(*sentence)
        left -= 1
        word = "".join(rng.choice("aeiou" if at % 2 else "bcdlmnprst") for at in range(rng.randint(3, 8)))
        mark = "." if not left else "," if rng.random() < clauses else ""
        said.append(f" {word}{mark}")
        counts.append(rng.randint(1, 4))
    return said, counts


def speak(oracle, config, size=1, translator=None):
    """Events of the oracle's speech, ``size`` soft tokens at a time."""
    translator = translator or SpeechTranslator(oracle, config)
    tokens = soft_tokens(oracle.counts, oracle.config.text.hidden_size)
    events = translator.push(SpeechStarted(audio_time=0.0, time=0.0))
    for begin in range(0, len(tokens), size):
        end = (begin + size) * TOKEN_SECONDS
        heard = SpeechHeard(audio_time=end, time=end, tokens=tokens[begin : begin + size])
        events += translator.push(heard)
    end = len(tokens) * TOKEN_SECONDS
    return events + translator.push(SpeechEnded(audio_time=end, time=end))


class Settled(Oracle):
    """Errs alike whenever it is asked the same."""

    def _choose(self, cache, behind, position, watch):
        self._random.seed(1000 * len(cache.audio) + position)
        return super()._choose(cache, behind, position, watch)


def hesitate(oracle, config, pauses):
    """Events of the oracle's speech, and how often the decoder was asked for something at its end.

    Behind soft tokens with these numbers the speaker pauses, and goes on.
    """
    translator = SpeechTranslator(oracle, config)
    tokens = soft_tokens(oracle.counts, oracle.config.text.hidden_size)
    tail = tokens[-1:]
    events = translator.push(SpeechStarted(audio_time=0.0, time=0.0))
    for at in range(len(tokens) - 1):
        time = (at + 1) * TOKEN_SECONDS
        events += translator.push(SpeechHeard(audio_time=time, time=time, tokens=tokens[at : at + 1]))
        if at in pauses:
            events += translator.push(SpeechPaused(audio_time=time, time=time, tokens=tail))
    time = len(tokens) * TOKEN_SECONDS
    events += translator.push(SpeechPaused(audio_time=time, time=time, tokens=tail))
    asked = 0

    def step(segments):
        nonlocal asked
        asked += len(segments)
        return oracle.step(segments)

    ended = SpeechEnded(audio_time=time, time=time)
    return events + run_alone(translator.steps(ended), step), asked


@pytest.mark.parametrize(
    ("policy", "word_times"),
    [(policy, policy.kind != "agreement") for policy, _ in POLICIES],
    ids=lambda given: getattr(given, "kind", given),
)
def test_a_pause_that_was_not_the_end_leaves_no_trace(babbler, policy, word_times):
    """And at one that was, the finals are there already."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    said, counts = a_speech(seed, 20)
    config = StreamConfig(policy=policy, word_times=word_times)
    rng = random.Random(seed)
    pauses = set(rng.sample(range(sum(counts) - 1), 20))
    steady, asked = hesitate(Settled(babbler, said, counts), config, set())
    halting, asked_again = hesitate(Settled(babbler, said, counts), config, pauses)

    assert halting == steady
    assert asked == asked_again == 0
    assert said_in(steady, Transcript) == [word.strip() for word in said]
    assert all(event.words for event in finals(steady, Transcript)) == word_times


def finals(events, kind):
    return [event for event in events if isinstance(event, kind) and event.final]


def said_in(events, kind):
    return [word for event in finals(events, kind) for word in event.stable.split()]


@pytest.mark.parametrize(("policy", "seconds"), POLICIES, ids=lambda given: getattr(given, "kind", given))
def test_minutes_without_a_pause_lose_no_word_and_double_none(babbler, policy, seconds):
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    said, counts = a_speech(seed, seconds)
    oracle = Oracle(babbler, said, counts, seed)
    config = StreamConfig(policy=policy)
    events = speak(oracle, config)

    assert said_in(events, Transcript) == [word.strip() for word in said]
    assert said_in(events, Translation) == [turn(word).strip() for word in said]
    assert oracle.longest * TOKEN_SECONDS < config.window + 1
    # In time, sentences end where speakers end them.
    ends = [event.stable[-1] for event in finals(events, Transcript)]
    assert ends.count(".") >= 0.9 * len(ends) > seconds / 60


@pytest.mark.parametrize(("sentence", "clauses"), [((10_000, 10_000), 0.1), ((10_000, 10_000), 0.0)])
def test_a_speaker_without_full_stops_is_parted_all_the_same(babbler, sentence, clauses):
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    said, counts = a_speech(seed, 150, sentence, clauses)
    oracle = Oracle(babbler, said, counts, seed)
    events = speak(oracle, StreamConfig())

    assert said_in(events, Transcript) == [word.strip() for word in said]
    assert len(finals(events, Transcript)) >= 5
    assert oracle.longest * TOKEN_SECONDS < 29
    if clauses:
        assert sum(event.stable.endswith(",") for event in finals(events, Transcript)) >= 3


def test_utterances_follow_each_other_as_if_the_speaker_had_paused(babbler):
    said, counts = a_speech(1, 60)
    events = speak(Oracle(babbler, said, counts), StreamConfig())
    starts = [event for event in events if isinstance(event, SpeechStart)]
    ends = [event for event in events if isinstance(event, SpeechEnd)]
    texts = [event for event in events if isinstance(event, Transcript | Translation)]

    assert [event.utterance for event in starts] == list(range(len(starts))) == [e.utterance for e in ends]
    assert [event.time for event in starts[1:]] == [event.time for event in ends[:-1]]
    assert [event.utterance for event in finals(events, Transcript)] == list(range(len(starts)))
    assert [event.audio_time for event in events if isinstance(event, Ack)] == [event.time for event in ends]
    for number in range(len(starts)):
        for kind in (Transcript, Translation):
            of_utterance = [e for e in texts if e.utterance == number and isinstance(e, kind)]
            for before, after in itertools.pairwise(of_utterance):
                assert after.stable.startswith(before.stable)
            assert [e.final for e in of_utterance] == [False] * (len(of_utterance) - 1) + [True]
    # The seams lie where words end, to within what attention tells.
    word_ends = np.cumsum(counts) * TOKEN_SECONDS
    off = [np.abs(word_ends - event.time).min() for event in ends]
    assert max(off) <= 2 * TOKEN_SECONDS


@pytest.mark.parametrize("glossary", [(), ("Zxyle",)])
def test_at_a_seam_words_are_heard_as_they_were_decoded(babbler, glossary):
    """Drawn to the terms, or a term that was heard for their sake would be heard nowhere."""
    drawn = []

    class Noting(Oracle):
        def _answer(self, segment):
            if segment.audio is not None and segment.keep > 1 and not segment.cache.length:
                drawn.append(segment.bias)
            return super()._answer(segment)

    said, counts = a_speech(11, 40)
    events = speak(Noting(babbler, said, counts), StreamConfig(glossary=glossary))

    assert len(finals(events, Transcript)) > 1
    assert len(drawn) >= len(finals(events, Transcript))
    assert {bias is not None for bias in drawn} == {bool(glossary)}


@pytest.mark.parametrize("size", [3, 1_000])
def test_seams_do_not_depend_on_how_soft_tokens_come(babbler, size):
    said, counts = a_speech(2, 60)

    def told(size):
        events = speak(Oracle(babbler, said, counts), StreamConfig(), size)
        return [(type(e), e.utterance, e.start, e.stable) for e in events if getattr(e, "final", False)]

    assert told(size) == told(1)


def test_without_partials_long_speech_is_parted_too(babbler):
    said, counts = a_speech(3, 90)
    events = speak(Oracle(babbler, said, counts), StreamConfig(partials=False))

    assert said_in(events, Transcript) == [word.strip() for word in said]
    assert all(e.final for e in events if isinstance(e, Transcript | Translation))
    assert len(finals(events, Transcript)) >= 4


def test_words_of_final_transcripts_have_times_where_asked_for(babbler):
    said, counts = a_speech(4, 60)
    events = speak(Oracle(babbler, said, counts), StreamConfig(word_times=True))
    spoken = [word for event in finals(events, Transcript) for word in event.words]
    ends = np.cumsum(counts) * TOKEN_SECONDS
    middles = ends - np.array(counts) * TOKEN_SECONDS / 2

    assert [word.word for word in spoken] == [word.strip() for word in said]
    off = [abs((word.start + word.end) / 2 - middle) for word, middle in zip(spoken, middles, strict=True)]
    assert np.median(off) <= 0.16
    assert all(event.words is None for event in events if isinstance(event, Transcript) and not event.final)
    assert all(
        event.words is None
        for event in finals(speak(Oracle(babbler, said, counts), StreamConfig()), Transcript)
    )


def test_an_update_holds_from_the_next_seam_on(babbler):
    said, counts = a_speech(5, 60)
    oracle = Oracle(babbler, said, counts)
    translator = SpeechTranslator(oracle, StreamConfig())
    tokens = soft_tokens(counts, babbler.config.text.hidden_size)
    events = translator.push(SpeechStarted(audio_time=0.0, time=0.0))
    for at in range(len(tokens)):
        events += translator.push(SpeechHeard(audio_time=1.0, time=99.0, tokens=tokens[at : at + 1]))
        if at == 10:
            translator.update(partials=False)
    partial = {e.utterance for e in events if isinstance(e, Transcript) and not e.final}

    assert partial == {0}
    assert len(finals(events, Transcript)) >= 2


def test_another_translator_goes_on_from_a_seam(babbler):
    """When a worker is lost in the middle of long speech, what came since the last seam is done again."""
    said, counts = a_speech(6, 60)
    whole = speak(Oracle(babbler, said, counts), StreamConfig())
    tokens = soft_tokens(counts, babbler.config.text.hidden_size)
    translator = SpeechTranslator(Oracle(babbler, said, counts), StreamConfig())
    events, since, shown, checkpoint, longest = [], [], {}, None, 0

    def push(event):
        nonlocal checkpoint, since, shown, longest
        came = translator.push(event)
        events.extend(came)
        since.append(event)
        for one in came:
            if isinstance(one, Transcript | Translation):
                shown[getattr(one, "target", "")] = one.stable
            if isinstance(one, SpeechStart):
                shown = {}
        if (newer := translator.checkpoint()) is not None:
            checkpoint, since = newer, []
        longest = max(longest, len(since))

    push(SpeechStarted(audio_time=0.0, time=0.0))
    for at in range(len(tokens)):
        end = (at + 1) * TOKEN_SECONDS
        push(SpeechHeard(audio_time=end, time=end, tokens=tokens[at : at + 1]))
        if at % 50 == 49:
            translator = SpeechTranslator(Oracle(babbler, said, counts), StreamConfig())
            done = len(finals(events, Transcript))
            translator.resume(checkpoint, done, shown)
            for again in since:
                translator.push(again)
    push(SpeechEnded(audio_time=end, time=end))

    assert longest * TOKEN_SECONDS < 28
    for kind in (Transcript, Translation):
        assert [e.stable for e in finals(events, kind)] == [e.stable for e in finals(whole, kind)]


class Stuck(Oracle):
    """Says the same whatever it hears."""

    text = ""

    def heard(self, audio):
        said = words(self.text)
        return said, [[0]] * len(said)


@pytest.mark.parametrize("text", ["", " gracias", " la la"])
def test_a_decoder_in_a_rut_begins_anew(babbler, text):
    """Speech that brings no other text is let go of, and what is said then is heard."""
    said, counts = a_speech(7, 60)
    stuck = Stuck(babbler, said, counts)
    stuck.text = text
    events = speak(stuck, StreamConfig())
    spans = [(event.start, event.end) for event in finals(events, Transcript)]

    assert all(end - start <= STALL_SECONDS + 3 for start, end in spans)
    assert stuck.longest * TOKEN_SECONDS <= STALL_SECONDS + 3
    assert {event.stable for event in finals(events, Transcript)} == {text.strip()}


def test_a_decoder_that_is_cured_says_all_that_comes_after(babbler):
    said, counts = a_speech(8, 60)
    cured = Stuck(babbler, said, counts)
    tokens = soft_tokens(counts, babbler.config.text.hidden_size)
    translator = SpeechTranslator(cured, StreamConfig())
    events = translator.push(SpeechStarted(audio_time=0.0, time=0.0))
    for at in range(len(tokens)):
        end = (at + 1) * TOKEN_SECONDS
        if end > 25:
            cured.__class__ = Oracle
        events += translator.push(SpeechHeard(audio_time=end, time=end, tokens=tokens[at : at + 1]))
    events += translator.push(SpeechEnded(audio_time=end, time=end))
    first = int(np.searchsorted(np.cumsum(counts) * TOKEN_SECONDS, 25.5))

    expected = [word.strip() for word in said[first:]]
    assert said_in(events, Transcript)[-len(expected) :] == expected


class Looping(Oracle):
    """Says its last word again and again."""

    def heard(self, audio):
        said, places = super().heard(audio)
        return [*said, *said[-1:] * 40], [*places, *places[-1:] * 40]


def test_a_word_that_is_said_again_and_again_is_said_once(babbler):
    said, counts = a_speech(9, 8)
    events = speak(Looping(babbler, said, counts), StreamConfig())

    assert said_in(events, Transcript) == [word.strip() for word in said]
    assert all(
        len((e.stable + e.tentative).split()) <= len(said) for e in events if isinstance(e, Transcript)
    )


def test_a_translation_that_says_the_same_again_and_again_says_it_once(babbler, monkeypatch):
    monkeypatch.setattr(oracle, "turn", lambda word: turn(word) * (40 if word.endswith(".") else 1))
    events = speak(Oracle(babbler, [" uno", " dos", " tres."], [3, 3, 3]), StreamConfig())

    assert said_in(events, Transcript) == ["uno", "dos", "tres."]
    assert said_in(events, Translation) == ["onu", "sod", "sert."]
    shown = [e.stable + e.tentative for e in events if isinstance(e, Translation)]
    assert max(text.count("sert") for text in shown) == 1


class Mute(Oracle):
    """Ends a translation before its first word, unless it is told not to."""

    obeys = True

    def _answer(self, segment):
        said = super()._answer(segment)
        label = self.prompt.translation_label("en")
        barred = segment.bias.barred if segment.bias and self.obeys else ()
        begins = segment.cache.ids[segment.cache.length - len(label) :] == label
        if begins and self._end not in barred:
            return [self._end]
        return said


def warned(events):
    return [event for event in events if isinstance(event, Error)]


@pytest.mark.parametrize("policy", [policy for policy, _ in POLICIES], ids=lambda given: given.kind)
def test_a_final_translation_is_not_blank_where_the_transcript_is_not(babbler, policy):
    mute = Mute(babbler, [" uno", " dos", " tres."], [3, 3, 3])
    events = speak(mute, StreamConfig(policy=policy))

    assert said_in(events, Translation) == ["onu", "sod", "sert."]
    # Until then nothing need be translated.
    assert all(event.final for event in events if isinstance(event, Translation))
    assert not warned(events)


def test_a_translation_that_stays_blank_in_long_speech_begins_anew(babbler):
    """Also where the speaker makes no pause; what has been translated is then gone on with."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    said, counts = a_speech(seed, 100)
    events = speak(Mute(babbler, said, counts), StreamConfig())
    partial = [event for event in events if isinstance(event, Translation) and not event.final]

    assert said_in(events, Translation) == [turn(word).strip() for word in said]
    assert partial
    assert all(event.audio_time - event.start >= STALL_SECONDS - TOKEN_SECONDS for event in partial)
    assert not warned(events)


def test_a_translation_that_is_blank_again_is_told_of(babbler):
    mute = Mute(babbler, [" uno", " dos."], [3, 3])
    mute.obeys = False
    events = speak(mute, StreamConfig())
    (error,) = warned(events)

    assert [event.stable for event in finals(events, Translation)] == [""]
    assert (error.code, error.fatal) == ("untranslated", False)
    assert "utterance 0 " in error.message
    assert " en " in error.message
    assert [type(event) for event in events[-4:]] == [Transcript, Translation, Error, Ack]


@pytest.mark.parametrize("said", [[], [" ..."]])
def test_of_nothing_said_no_translation_is_due(babbler, said):
    mute = Mute(babbler, said or [" mmh"], [6])
    if not said:
        mute.heard = lambda audio: ([], [])
    mute.obeys = False
    events = speak(mute, StreamConfig())

    assert [event.stable for event in finals(events, Transcript)] == ["".join(said).strip()]
    assert not warned(events)


RAMBLE = [f" {''.join(word)}" for word in itertools.product("bdfgl", "aeiou", "mnprst")]
"""More words than may come of little audio, none of them like the others."""


class Rambling(Oracle):
    """Never comes to an end."""

    def heard(self, audio):
        said, places = super().heard(audio)
        return [*said, *RAMBLE], [*places, *[[0]] * len(RAMBLE)]


def test_a_transcript_is_as_long_as_its_audio_allows(babbler):
    (final,) = finals(speak(Rambling(babbler, [" uno", " dos"], [3, 3]), StreamConfig()), Transcript)
    most = SPARE_TOKENS + TRANSCRIPT_TOKENS * 6

    assert most - 8 <= len(babbler.prompt.words(final.stable)) <= most


def test_a_translation_is_as_long_as_its_transcript_allows(babbler, monkeypatch):
    monkeypatch.setattr(oracle, "turn", lambda word: word + "".join(RAMBLE))
    (final,) = finals(speak(Oracle(babbler, [" uno"], [3]), StreamConfig()), Translation)
    transcript = len(babbler.prompt.after_audio()) + len(babbler.prompt.words("uno"))
    most = SPARE_TOKENS + TRANSLATION_TOKENS * transcript

    assert most - 8 <= len(babbler.prompt.words(final.stable)) <= most


def test_texts_after_a_long_silence_are_those_without_it(babbler):
    """Nothing of what was said before, and nothing of the silence, is left in the translator."""
    said, counts = a_speech(10, 8)
    oracle = Oracle(babbler, said, counts)
    translator = SpeechTranslator(oracle, StreamConfig())
    first = speak(oracle, StreamConfig(), translator=translator)
    for _ in range(600):
        translator.push(Silence(audio_time=100.0, time=99.0))
    second = speak(oracle, StreamConfig(), translator=translator)

    for kind in (Transcript, Translation):
        assert said_in(first, kind) == said_in(second, kind) != []
