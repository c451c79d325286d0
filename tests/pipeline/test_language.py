"""Streams whose language is to be detected: each utterance in its own, and what is said meanwhile."""

from __future__ import annotations

import json
import random
import secrets
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.quality import spoken
from pipeline import Gemma3n
from pipeline.audio.pcm import to_s16le
from pipeline.batching import answer_tuples, run_alone
from pipeline.cli import NANO
from pipeline.config import StreamConfig
from pipeline.errors import LanguageError
from pipeline.gemma.prompt import MOST_SOURCES, PromptTemplate
from pipeline.language import LONGEST_SECONDS, Undecided
from pipeline.recording import translate
from pipeline.speech import SpeechEnded, SpeechHeard, SpeechPaused, SpeechStarted
from pipeline.stream import Stream
from pipeline.training.engines import held_out_voices
from pipeline.translation import SpeechTranslator, most_bytes
from pipeline.utterance import TOKEN_SECONDS, Rest
from pipeline.wire.events import SpeechStart, Transcript, Translation, encode
from tests.pipeline.oracle import Oracle, soft_tokens, turn
from tests.pipeline.test_translation import most_held


class Polyglot(Oracle):
    """Is surer of what it says where it is told the language that is spoken.

    Args:
        spoken: language of each word.
        unsure: for how many soft tokens of an utterance it is as sure of any language.
    """

    def __init__(self, model, said, counts, spoken, unsure=0):
        super().__init__(model, said, counts)
        self.spoken, self.unsure = spoken, unsure
        self.told = {
            tuple(self.prompt.before_audio(*pair)): pair[0]
            for pair in (("es", "en"), ("en", "es"), ("es", "es"), ("en", "en"))
        }

    def step(self, segments):
        return answer_tuples(segments, super().step)

    def _answer(self, segment):
        answer = super()._answer(segment)
        if segment.odds is not None:
            ids, audio = segment.cache.ids, segment.cache.audio
            (told,) = (code for before, code in self.told.items() if tuple(ids[: len(before)]) == before)
            right = len(audio) > self.unsure and told == self.spoken[int(audio[-1][0])]
            segment.odds[:] = [-0.1 if right else -2.0 if len(audio) > self.unsure else -1.0] * segment.keep
        return answer


def a_talk(seed, languages):
    """Words of utterances in these languages: what is said, for how long, and which words each has."""
    rng = random.Random(seed)
    said, counts, spoken, spans = [], [], [], []
    for language in languages:
        number = rng.randint(4, 12)
        spans.append((len(said), len(said) + number))
        for at in range(number):
            word = "".join(rng.choice("aeiou" if at % 2 else "bcdlmnprst") for at in range(rng.randint(3, 8)))
            said.append(f" {word}{'.' if at == number - 1 else ''}")
            counts.append(rng.randint(2, 4))
            spoken.append(language)
    return said, counts, spoken, spans


def speech_of(oracle, spans, size, rng=None):
    """Speech events of utterances, ``size`` soft tokens at a time, some with a pause before their end."""
    tokens = soft_tokens(oracle.counts, oracle.config.text.hidden_size)
    ends = np.concatenate([[0], np.cumsum(oracle.counts)])
    for first, last in spans:
        begin, end = ends[first], ends[last]
        time = float(begin) * TOKEN_SECONDS
        yield SpeechStarted(audio_time=time, time=time)
        pause = rng is not None and rng.random() < 0.5
        for at in range(begin, end - pause, size):
            upto = min(at + size, end - pause)
            time = float(upto) * TOKEN_SECONDS
            yield SpeechHeard(audio_time=time, time=time, tokens=tokens[at:upto])
        time = float(end) * TOKEN_SECONDS
        if pause:
            yield SpeechPaused(audio_time=time, time=time, tokens=tokens[end - 1 : end])
        yield SpeechEnded(audio_time=time, time=time)


def told(translator, speech):
    return [event for heard in speech for event in translator.push(heard)]


def finals(events, kind):
    return [event for event in events if isinstance(event, kind) and event.final]


AUTO = StreamConfig(source="auto", targets=("en",))


def test_each_utterance_is_in_its_own_language_however_its_audio_is_cut(babbler):
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    rng = random.Random(seed)
    languages = [rng.choice(["es", "en"]) for _ in range(8)]
    said, counts, spoken, spans = a_talk(seed, languages)
    outcomes = []
    for size in (1, 3, 10_000):
        oracle = Polyglot(babbler, said, counts, spoken, unsure=rng.choice([0, 6]))
        events = told(SpeechTranslator(oracle, AUTO), speech_of(oracle, spans, size, random.Random(seed)))
        outcomes.append([(e.utterance, e.language, e.stable) for e in finals(events, Transcript)])
        translations = finals(events, Translation)
        for (first, last), language, text in zip(spans, languages, translations, strict=True):
            words = said[first:last] if language == "en" else [turn(word) for word in said[first:last]]
            assert text.stable == "".join(words).strip()

    assert [language for _, language, _ in outcomes[0]] == languages
    assert [text for _, _, text in outcomes[0]] == ["".join(said[a:b]).strip() for a, b in spans]
    assert outcomes[1:] == outcomes[:-1]


def test_nothing_is_stable_before_the_language_is_known_and_nothing_changes_afterwards(babbler):
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    said, counts, spoken, spans = a_talk(seed, ["en", "es", "en", "es"] * 3)
    oracle = Polyglot(babbler, said, counts, spoken, unsure=6)
    events = told(SpeechTranslator(oracle, AUTO), speech_of(oracle, spans, 1))
    shown: dict[tuple[int, str], str] = {}
    decided: dict[int, str] = {}
    for event in events:
        if isinstance(event, Transcript):
            assert event.language is not None or not event.stable
            assert decided.get(event.utterance) in (None, event.language)
            if event.language is not None:
                decided[event.utterance] = event.language
        if isinstance(event, Transcript | Translation):
            key = event.utterance, getattr(event, "target", "")
            assert event.stable.startswith(shown.get(key, ""))
            shown[key] = event.stable

    assert any(isinstance(event, Transcript) and event.language is None for event in events)
    assert list(decided.values()) == ["en", "es", "en", "es"] * 3


def test_once_it_is_known_it_is_as_if_it_had_been_known_from_the_beginning(babbler):
    said, counts, spoken, spans = a_talk(1, ["es"] * 3)
    detected = Polyglot(babbler, said, counts, spoken)
    named = Oracle(babbler, said, counts)
    config = StreamConfig(source="es", targets=("en",))
    ours = told(SpeechTranslator(detected, AUTO), speech_of(detected, spans, 3))
    theirs = told(SpeechTranslator(named, config), speech_of(named, spans, 3))

    assert [event.stable for event in finals(ours, Transcript)] == [
        event.stable for event in finals(theirs, Transcript)
    ]
    assert finals(ours, Translation) == finals(theirs, Translation)


def test_who_cannot_be_told_apart_goes_on_in_the_language_before(babbler):
    said, counts, spoken, spans = a_talk(2, ["en", "es", "en"])
    oracle = Polyglot(babbler, said, counts, spoken)
    speech = list(speech_of(oracle, spans, 4))
    second = next(i for i, event in enumerate(speech) if isinstance(event, SpeechEnded)) + 1
    translator = SpeechTranslator(oracle, AUTO)
    events = told(translator, speech[:second])
    oracle.unsure = 10_000
    events += told(translator, speech[second:])

    assert [event.language for event in finals(events, Transcript)] == ["en", "en", "en"]


def test_without_pauses_the_language_is_found_anew_at_seams(babbler):
    said, counts, spoken = [], [], []
    for at in range(24):
        words, lengths, languages, _ = a_talk(at, ["es" if at < 12 else "en"])
        said, counts, spoken = [*said, *words], [*counts, *lengths], [*spoken, *languages]
    oracle = Polyglot(babbler, said, counts, spoken)
    events = told(SpeechTranslator(oracle, AUTO), speech_of(oracle, [(0, len(said))], 2))
    transcripts = finals(events, Transcript)
    found = [event.language for event in transcripts]

    assert " ".join(event.stable for event in transcripts) == "".join(said).strip()
    assert found == sorted(found, reverse=True)
    assert set(found) == {"es", "en"}
    assert len(finals(events, Translation)) == len(transcripts)


def heard_elsewhere(oracle, speech, move):
    """What is told when another translator takes over behind an event, and finds the other language.

    Where no language has been told yet, it hears what the first one heard.
    """
    translator, checkpoint, since, shown, events = SpeechTranslator(oracle, AUTO), None, [], {}, []
    language = ""
    for number, heard in enumerate(speech):
        came = translator.push(heard)
        events += came
        for event in came:
            if isinstance(event, Transcript | Translation):
                shown[getattr(event, "target", "")] = event.stable
            if isinstance(event, Transcript):
                language = "" if event.final else event.language or ""
        since.append(heard)
        if (newer := translator.checkpoint()) is not None:
            checkpoint, since, shown = newer, [], {}
        if number == move:
            as_it_was = oracle.spoken
            if language:
                oracle.spoken = ["es" if each == "en" else "en" for each in as_it_was]
            translator = SpeechTranslator(oracle, AUTO)
            translator.resume(checkpoint, len(finals(events, Transcript)), shown, language)
            told(translator, since)
            oracle.spoken = as_it_was
    assert checkpoint is not None
    assert checkpoint[-1] == oracle.spoken[-1]
    return events


@pytest.mark.parametrize("move", range(4, 40, 3))
def test_another_translator_goes_on_in_the_language(babbler, move):
    said, counts, spoken, spans = a_talk(3, ["en", "es", "en"])
    oracle = Polyglot(babbler, said, counts, spoken, unsure=6)
    speech = list(speech_of(oracle, spans, 2))
    whole = told(SpeechTranslator(oracle, AUTO), speech)

    assert heard_elsewhere(oracle, speech, move) == whole


@pytest.mark.parametrize("move", range(20, 160, 24))
def test_another_translator_goes_on_in_the_language_behind_a_seam(babbler, move):
    said, counts, spoken = [], [], []
    for at, language in enumerate(["es", "es", "en", "en", "es", "es", "en", "en"]):
        words, lengths, languages, _ = a_talk(at, [language])
        said, counts, spoken = [*said, *words], [*counts, *lengths], [*spoken, *languages]
    oracle = Polyglot(babbler, said, counts, spoken)
    speech = list(speech_of(oracle, [(0, len(said))], 1))
    whole = told(SpeechTranslator(oracle, AUTO), speech)
    moved = heard_elsewhere(oracle, speech, move)

    # Where exactly the seam is, the oracle's attention leaves to chance.
    for kind in (Transcript, Translation):
        texts = [
            [replace(e, start=0, end=0, audio_time=0) for e in finals(all_, kind)] for all_ in (moved, whole)
        ]
        assert texts[0] == texts[1]


def test_without_partials_only_finals_come(babbler):
    said, counts, spoken, spans = a_talk(4, ["es", "en"])
    oracle = Polyglot(babbler, said, counts, spoken)
    config = StreamConfig(source="en,es", targets=("en", "es")[:1], partials=False)
    events = told(SpeechTranslator(oracle, config), speech_of(oracle, spans, 3))

    assert [e.language for e in events if isinstance(e, Transcript)] == ["es", "en"]
    assert [e.final for e in events if isinstance(e, Transcript | Translation)] == [True] * 4
    assert [e.utterance for e in events if isinstance(e, SpeechStart)] == [0, 1]


def test_memory_is_bounded_while_the_language_is_looked_for(babbler):
    config = StreamConfig(source="auto", targets=("en",), max_new_tokens=6, window=4.0, partials=False)
    hidden = babbler.config.text.hidden_size
    tokens = np.random.default_rng(1).normal(size=(20, hidden)).astype(np.float32)
    speech = [
        SpeechStarted(audio_time=0.0, time=0.0),
        SpeechHeard(audio_time=3.2, time=3.2, tokens=tokens),
        SpeechEnded(audio_time=3.2, time=3.2),
    ]
    events, held = most_held(babbler, speech, config)

    assert len(finals(events, Transcript)) == 1
    assert held <= most_bytes(babbler.prompt, babbler.config.text, config, torch.float32)


def test_it_is_decided_behind_the_longest_audio_at_last(babbler):
    """However the model wavers."""
    count = round(LONGEST_SECONDS / TOKEN_SECONDS) + 4
    oracle = Polyglot(babbler, [" hola"] * count, [1] * count, ["es"] * count)
    undecided = Undecided(
        oracle,
        oracle.new_pool(),
        AUTO,
        Rest(0.0, torch.empty(0, babbler.config.text.hidden_size)),
        before={"es": babbler.prompt.before_audio("es", "en"), "en": babbler.prompt.before_audio("en", "es")},
        before_it="",
        ffn_widths=None,
    )
    # As many words in either language, by turns a little surer of one of them.
    answer, trials = oracle._answer, 0

    def waver(segment):
        nonlocal trials
        said = answer(segment)
        if segment.odds is not None:
            trials += 1
            segment.odds[:] = [-0.9 if trials % 4 in (1, 0) else -1.0] * segment.keep
        return said

    oracle._answer = waver
    tokens = torch.from_numpy(soft_tokens(oracle.counts, babbler.config.text.hidden_size))
    while undecided.language is None:
        taken, _ = run_alone(undecided.hear(tokens), oracle.step)
        tokens = tokens[taken:]

    assert undecided.end >= LONGEST_SECONDS
    assert len(undecided.held) * TOKEN_SECONDS < LONGEST_SECONDS + AUTO.partial_interval


@pytest.mark.parametrize(
    ("languages", "source", "says"),
    [
        (["es"], "auto", "knows one language only, 'es'"),
        (["es", "en"], "es,fr", "unknown language 'fr'"),
        (PromptTemplate().languages, "auto", f"name at most {MOST_SOURCES}"),
    ],
)
def test_what_cannot_be_detected_is_refused(babbler, monkeypatch, languages, source, says):
    monkeypatch.setattr(babbler.prompt, "languages", tuple(languages))
    target = languages[0]

    with pytest.raises(LanguageError, match=says):
        SpeechTranslator(babbler, StreamConfig(source=source, targets=(target,)))


@pytest.fixture(name="nano", scope="module")
def _nano() -> Gemma3n:
    return Gemma3n.from_pretrained(NANO)


SAID = {"es": "No puedo creer que ya sea martes.", "en": "I can't believe that you are still waiting."}


@pytest.mark.usefixtures("espeak_ng")
@pytest.mark.parametrize("order", [("es", "en"), ("en", "es")], ids="-".join)
def test_speakers_are_heard_in_the_language_that_they_speak(nano, order):
    """And who reads English reads all of it; with a voice of each language that training never heard."""
    pause = np.random.default_rng(0).normal(0, 1e-4, 24_000).astype(np.float32)
    parts = [pause]
    for language in order:
        (clip,) = spoken([(SAID[language], "")], held_out_voices(language))
        parts += [clip.waveform, pause]
    sound = to_s16le(np.concatenate(parts))
    outcomes = []
    for size in (len(sound), 3_210):
        stream = Stream(nano, ",".join(SAID), ["en"])
        pieces = [sound[at : at + size] for at in range(0, len(sound), size)]
        events = [*(event for piece in pieces for event in stream.feed(piece)), *stream.close()]
        transcripts, translations = finals(events, Transcript), finals(events, Translation)
        outcomes.append([(event.utterance, event.stable) for event in (*transcripts, *translations)])

        assert [event.language for event in transcripts] == list(order)
        for transcript, translation in zip(transcripts, translations, strict=True):
            assert (transcript.stable == translation.stable) == (transcript.language == "en")
            assert translation.stable

    assert outcomes[0] == outcomes[1]


def test_a_recording_tells_the_language_of_each_utterance(babbler, talk):
    config = StreamConfig(max_new_tokens=6)
    said = translate(babbler, talk, "es,en", ["en"], config=config)

    assert said.source == "es,en"
    assert {utterance.language for utterance in said.utterances} <= {"es", "en"}
    for utterance in said.utterances:
        assert utterance.language == "es" or utterance.translations["en"] == utterance.transcript


def test_the_wire_names_the_language_only_where_it_is_detected():
    about = {"utterance": 0, "start": 0.0, "end": 1.0, "stable": "Sí.", "tentative": "", "final": True}

    assert json.loads(encode(Transcript(**about, language="es")))["language"] == "es"
    assert "language" not in json.loads(encode(Transcript(**about)))
