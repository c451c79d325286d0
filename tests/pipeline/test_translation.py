"""The back half: hypotheses that agree become stable, and every utterance gets its finals."""

from __future__ import annotations

import itertools
import random
import secrets
from functools import partial

import numpy as np
import pytest
import torch

from pipeline.batching import Batch, run_alone
from pipeline.config import POLICIES, AudioFormat, PolicyConfig, StreamConfig
from pipeline.errors import LanguageError
from pipeline.gemma import beam
from pipeline.gemma.greedy import Segment
from pipeline.model import Gemma3n
from pipeline.speech import Silence, SpeechEnded, SpeechHeard, SpeechStarted
from pipeline.translation import SpeechTranslator, most_bytes
from pipeline.wire.events import Ack, SpeechEnd, SpeechStart, Transcript, Translation

BRIEF = partial(StreamConfig, audio=AudioFormat("pcm_f32le"), max_new_tokens=6)
"""A random model never ends by itself."""

CONFIG = BRIEF()

each_way = pytest.mark.parametrize("beams", [1, 3])
"""Greedily, and searched for."""


def translate(model, heard, config=CONFIG):
    translator = SpeechTranslator(model, config)
    return [event for speech in heard for event in translator.push(speech)]


def most_held(model, heard, config):
    """Events, and the most bytes that the stream's caches hold at any time; in the end they hold none."""
    pool, held, events = model.new_pool(), [], []
    translator = SpeechTranslator(model, config, pool)

    def step(segments):
        answers = model.step(segments)
        held.append(sum(blocks.taken * blocks.buffer[:, 0].nbytes for blocks in pool.kinds.values()))
        return answers

    for event in heard:
        events += run_alone(translator.steps(event), step)
    assert {blocks.taken for blocks in pool.kinds.values()} == {0}
    return events, max(held)


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


@each_way
def test_stable_text_only_grows_into_the_final(babbler, heard, beams):
    events = translate(babbler, heard, BRIEF(beams=beams))
    for kind in (Transcript, Translation):
        for number in range(3):
            of_utterance = texts(events, kind, number)
            assert len(of_utterance) > (kind is Transcript)
            for before, after in itertools.pairwise(of_utterance):
                assert after.stable.startswith(before.stable)
            assert of_utterance[-1].final
            assert of_utterance[-1].tentative == ""
            assert not any(e.final for e in of_utterance[:-1])


def test_nothing_is_sent_twice(babbler, heard):
    partial = [e for e in texts(translate(babbler, heard), Transcript, 0) if not e.final]
    states = [(e.stable, e.tentative) for e in partial]

    assert all(a != b for a, b in itertools.pairwise(states))


@each_way
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_texts_do_not_depend_on_how_soft_tokens_come(babbler, heard, size, beams):
    config = BRIEF(beams=beams)

    def said(events):
        return [
            (e.utterance, e.stable, e.tentative) for e in events if isinstance(e, (Transcript, Translation))
        ]

    assert said(translate(babbler, recut(heard, size), config)) == said(translate(babbler, heard, config))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_search_changes_finals_alone(babbler, heard, policy):
    """Words have their times all the same."""
    about = {"policy": PolicyConfig(policy), "word_times": True}
    greedy, searched = (translate(babbler, heard, BRIEF(beams=beams, **about)) for beams in (1, 4))
    finals = [
        (e, other) for e, other in zip(greedy, searched, strict=True) if e != other and not isinstance(e, Ack)
    ]

    assert finals
    assert all(e.final and other.final for e, other in finals)
    assert all(len(e.words) == len(e.stable.split()) for e in texts(searched, Transcript) if e.final)


def test_what_is_searched_for_is_likelier(babbler, heard):
    """By its mean log-probability."""
    audio = torch.cat([torch.from_numpy(e.tokens) for e in heard if isinstance(e, SpeechHeard)][:4])
    prompt = babbler.prompt
    ids = [
        *prompt.before_audio("es", "en"),
        *[babbler.config.audio_token_id] * len(audio),
        *prompt.after_audio(),
    ]
    found = []
    for beams in (1, 8):
        first = beam.ranking(beams, ())

        def work(first=first, beams=beams):
            cache = babbler.new_cache()
            yield Segment(cache, ids, 1, audio, ranking=first)
            return (yield from beam.search(cache, first, 12, (), beams))

        said, _ = run_alone(work(), babbler.step)
        logits = babbler.logits([*ids, *said], audio)[-len(said) - 1 : -1]
        odds = logits[:, : babbler.config.vision_vocab_offset].log_softmax(-1)
        found.append(odds.gather(1, torch.tensor(said)[:, None]).mean().item())

    assert found[1] > found[0]


def test_final_audio_is_acknowledged_behind_its_finals(babbler, heard):
    events = translate(babbler, heard)
    for number in range(3):
        finals = [i for i, e in enumerate(events) if getattr(e, "final", False) and e.utterance == number]
        ack = events[finals[-1] + 1]
        assert isinstance(ack, Ack)
        assert 0 <= ack.audio_time - events[finals[-1]].end <= CONFIG.gate.postroll
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
        self._plan = []
        self.prompt, self.tokenizer, self.config = model.prompt, model.tokenizer, model.config
        self.new_cache, self.new_pool = model.new_cache, model.new_pool

    def step(self, segments):
        (segment,) = segments
        self._model.step(segments)
        (end,) = self.tokenizer.special("<end_of_turn>")
        if len(segment.token_ids) > 1:
            split = len(segment.token_ids) - segment.keep + 1
            given, draft = segment.token_ids[:split], segment.token_ids[split:]
            output = [*self._next_output(self.tokenizer.decode(given)), end]
            accepted = next((n for n, token in enumerate(draft) if token != output[n]), len(draft))
            choices, self._plan = output[: accepted + 1], output[accepted + 1 :]
            return [[*choices, *[end] * (len(draft) - accepted)]]
        return [[self._plan.pop(0)]]

    def _next_output(self, given):
        text = next(self._script)
        stable = next((n for n in range(len(text), 0, -1) if given.endswith(f" {text[:n]}")), 0)
        return self.tokenizer.encode(text[stable:] if stable else f" {text}" if text else "")


def hear_script(babbler, *script):
    """Events of an utterance with a hypothesis per soft token and one at its end."""
    config = StreamConfig(partial_interval=0.16, policy=PolicyConfig(agreement=2))
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
    assert [(e.stable, e.tentative) for e in texts(events, Translation)] == [
        ("the cat", ""),
        ("the cat eats here.", ""),
    ]


def test_a_translation_is_shown_as_far_as_two_hypotheses_have_it(babbler):
    """Transcripts change at their end alone, translations anywhere: what comes once may be gone at once."""
    events = hear_script(babbler, *("a", "x y z"), *("a b", "x y w v"), *("a b c", "x y w v u"))

    assert [e.tentative for e in texts(events, Transcript)] == ["a", " b", ""]
    assert [(e.stable, e.tentative) for e in texts(events, Translation) if not e.final] == [("x y", "")]


def test_a_translation_keeps_what_was_stable_when_its_transcript_vanishes(babbler):
    events = hear_script(babbler, *("sí", "yes of course"), *("sí", "yes of course not"), *("",))

    assert [(e.stable, e.final) for e in texts(events, Translation)] == [
        ("yes of course", False),
        ("yes of course", True),
    ]
    assert [e.stable for e in texts(events, Transcript) if e.final] == [""]


def test_partial_texts_end_where_the_audio_heard_ends(babbler):
    events = hear_script(babbler, *("a b", "c d"), *("a b c", "c d e"), *("a b c d", "c d e f"))

    assert [e.end for e in texts(events, Transcript)] == [pytest.approx(0.16), pytest.approx(0.32), 1.0]


def test_a_stream_says_in_a_batch_what_it_says_alone(babbler, heard):
    """Streams of other languages and settings at other positions, which come and go at any step."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    draws = random.Random(seed)
    configs = [
        CONFIG,
        BRIEF(source="en", targets=("es",)),
        BRIEF(targets=("en", "es")),
        BRIEF(partials=False),
        BRIEF(partial_interval=0.32, policy=PolicyConfig(agreement=1)),
        BRIEF(policy=PolicyConfig("attention")),
        BRIEF(targets=("en", "es"), beams=4),
        BRIEF(policy=PolicyConfig("attention"), beams=2, glossary=({"es": "coche", "en": "automobile"},)),
    ]
    pool = babbler.new_pool()
    translators = [SpeechTranslator(babbler, config, pool) for config in configs]
    waiting = [list(recut(heard, draws.randint(1, 6))) for _ in configs]
    inputs = [list(events) for events in waiting]
    said = [[] for _ in configs]
    batch, busy, sizes = Batch(lambda works: sizes.append(len(works)) or babbler.step(works)), set(), []
    while any(waiting) or len(batch):
        for at, events in enumerate(waiting):
            if at not in busy and events and draws.random() < 0.5:
                batch.add(at, translators[at].steps(events.pop(0)))
                busy.add(at)
        for at, events in batch.step():
            busy.remove(at)
            said[at] += events

    for config, events, together in zip(configs, inputs, said, strict=True):
        assert together == translate(babbler, events, config)
    assert max(sizes) == len(configs)


def test_a_stream_can_be_resized(babbler, heard):
    """At once within a group of sub-models; to one of another group when an utterance has ended."""
    whole = babbler.config.text.intermediate_size
    own = babbler.config.text.first_shared_layer
    upper, lower = (*whole[:own], *(8 for _ in whole[own:])), tuple(8 for _ in whole)
    translator, used = SpeechTranslator(babbler, CONFIG), []

    def step(segments):
        used.extend(segment.ffn_widths for segment in segments)
        return babbler.step(segments)

    def push(event):
        """Sub-models in which the event's work is done."""
        used.clear()
        run_alone(translator.steps(event), step)
        return set(used)

    tokens = np.ones((8, babbler.config.text.hidden_size), np.float32)
    begin, end = (kind(audio_time=1.0, time=1.0) for kind in (SpeechStarted, SpeechEnded))
    speech = SpeechHeard(audio_time=1.0, time=1.0, tokens=tokens)
    push(begin)
    assert push(speech) == {None}
    translator.resize(upper)
    assert push(speech) == {upper}
    translator.resize(lower)
    assert push(speech) == push(end) == {upper}
    push(begin)
    assert push(speech) == {lower}
    translator.resize(None)
    assert push(end) == {lower}
    push(begin)
    assert push(end) == {None}


def test_a_stream_of_a_sub_model_says_what_the_sub_model_says(babbler, heard, checkpoint):
    """Read as a model of its own, or seen inside the whole."""
    widths = tuple(width // 2 for width in babbler.config.text.intermediate_size)
    translator = SpeechTranslator(babbler, CONFIG, ffn_widths=widths)
    said = [event for speech in heard for event in translator.push(speech)]

    assert said == translate(Gemma3n.from_pretrained(checkpoint, ffn_widths=widths), heard)
    assert said != translate(babbler, heard)


def test_poison_in_a_batch_harms_its_own_stream_only(babbler, heard):
    pool = babbler.new_pool()
    sound, sick = (SpeechTranslator(babbler, CONFIG, pool) for _ in range(2))
    said, failed = [], []
    for number, event in enumerate(heard):
        batch = Batch(babbler.step)
        batch.add("sound", sound.steps(event))
        if not failed:
            poisoned = event
            if number == 2:
                wrong = np.zeros((3, babbler.config.text.hidden_size + 1), np.float32)
                poisoned = SpeechHeard(audio_time=1.0, time=1.0, tokens=wrong)
            batch.add("sick", sick.steps(poisoned))
        while len(batch):
            for key, result in batch.step():
                if key == "sick":
                    failed += [result] if isinstance(result, Exception) else []
                else:
                    said += result

    assert len(failed) == 1
    assert said == translate(babbler, heard)


@each_way
def test_a_stream_never_holds_more_than_is_said(babbler, heard, beams):
    """Not even while a hypothesis branches; and nothing once it is silent."""
    config = BRIEF(targets=("en", "es"), max_new_tokens=40, beams=beams)
    _, held = most_held(babbler, heard, config)
    most = most_bytes(babbler.prompt, babbler.config.text, config, torch.float32)

    assert most / 20 < held <= most


@each_way
def test_longest_sequences_have_room(babbler, beams):
    """Speech that goes on for longer than the window, with a model that does not stop."""
    config = StreamConfig(targets=("en", "es"), partial_interval=5.0, max_new_tokens=60, beams=beams)
    translator = SpeechTranslator(babbler, config)
    count = round(2 * config.window / 0.16) + 1
    random_tokens = np.random.default_rng(1).normal(size=(count, babbler.config.text.hidden_size))
    translator.push(SpeechStarted(audio_time=1.0, time=0.0))
    translator.push(SpeechHeard(audio_time=56.0, time=56.0, tokens=random_tokens.astype(np.float32)))
    events = translator.push(SpeechEnded(audio_time=56.0, time=56.0))

    assert len(texts(events, Translation)) == 2


def translate_elsewhere(model, heard, config, moves):
    """As if the translator were lost behind some events: another one begins with its last checkpoint."""
    translator, checkpoint, since, shown, events = SpeechTranslator(model, config), None, [], {}, []
    for number, speech in enumerate(heard):
        came = translator.push(speech)
        events += came
        for event in came:
            if isinstance(event, Transcript | Translation):
                shown[getattr(event, "target", "")] = event.stable
        since.append(speech)
        if (newer := translator.checkpoint()) is not None:
            checkpoint, since, shown = newer, [], {}
        if number in moves:
            translator = SpeechTranslator(model, config)
            finals = [event for event in events if isinstance(event, Transcript) and event.final]
            translator.resume(checkpoint, len(finals), shown)
            for again in since:
                translator.push(again)
    return events


@each_way
@pytest.mark.parametrize("seed", [secrets.randbits(32) for _ in range(3)])
def test_another_translator_goes_on_from_a_checkpoint(babbler, heard, seed, beams):
    """With the same texts, and nothing of what has been shown is taken back."""
    rng = random.Random(seed)
    config = BRIEF(targets=("en", "es"), beams=beams)
    pieces = list(recut(heard, 3))
    whole = translate(babbler, pieces, config)
    moved = translate_elsewhere(babbler, pieces, config, rng.sample(range(len(pieces)), 8))

    assert moved == whole
