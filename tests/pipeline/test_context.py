"""What utterances are told before their audio, and by whom."""

from __future__ import annotations

import pytest
import torch

from pipeline.batching import run_alone
from pipeline.config import ContextConfig, StreamConfig
from pipeline.errors import UnsupportedError
from pipeline.speech import SpeechEnded, SpeechHeard, SpeechStarted
from pipeline.translation import SpeechTranslator, most_bytes
from pipeline.wire.events import Transcript
from tests.pipeline.oracle import Oracle, soft_tokens
from tests.pipeline.test_translation import BRIEF, CONFIG, most_held, texts, translate


def told(model, heard, config, change=None, move=None):
    """Events, and what each utterance was told before its audio; None where that was nothing.

    Args:
        model: that is told.
        heard: speech events.
        config: of the stream.
        change: another context, from the second utterance on.
        move: before which utterance another translator goes on, from a checkpoint.
    """
    translator, contexts, events, begun = SpeechTranslator(model, config), [], [], 0
    begin, end = model.prompt.before_audio("es", "en")[:2], model.prompt.before_audio("es", "en")[-1]

    def step(segments):
        for segment in segments:
            ids = list(segment.token_ids)
            if ids[:2] == begin:
                _, known, context = model.tokenizer.decode(ids[: ids.index(end)]).partition("What is known: ")
                contexts.append(context.strip() if known else None)
        return model.step(segments)

    for speech in heard:
        if isinstance(speech, SpeechStarted) and begun == move:
            checkpoint, translator = translator.checkpoint(), SpeechTranslator(model, config)
            translator.resume(checkpoint, begun, {})
        events += run_alone(translator.steps(speech), step)
        if isinstance(speech, SpeechStarted):
            begun += 1
            if change is not None:
                translator.update(context=change)
                change = None
    return events, contexts


def utterances(model, *said):
    """An oracle, and speech events of utterances for it."""
    every = [f" {word}" for text in said for word in text.split()]
    oracle = Oracle(model, every, [2] * len(every))
    tokens, heard, at = soft_tokens(oracle.counts, model.config.text.hidden_size), [], 0
    for text in said:
        count = 2 * len(text.split())
        time = (at + count) * 0.16
        heard += [
            SpeechStarted(audio_time=at * 0.16, time=at * 0.16),
            SpeechHeard(audio_time=time, time=time, tokens=tokens[at : at + count]),
            SpeechEnded(audio_time=time, time=time),
        ]
        at += count
    return oracle, heard


@pytest.mark.parametrize("move", [None, 1, 2, 3])
def test_an_utterance_is_told_the_sentences_that_were_said_last(listener, move):
    """Also by a translator that has taken over."""
    said = ["Hola a todos. Soy Ana Belén.", "Esto es un gato. No duerme", "Y ya está.", "Adiós."]
    oracle, heard = utterances(listener, *said)
    events, contexts = told(oracle, heard, StreamConfig(context=ContextConfig("RISC-V", 3)), move=move)

    assert [e.stable for e in texts(events, Transcript) if e.final] == said
    assert contexts == [
        "RISC-V",
        "RISC-V Hola a todos. Soy Ana Belén.",
        "RISC-V Soy Ana Belén. Esto es un gato. No duerme",
        "RISC-V Esto es un gato. No duerme Y ya está.",
    ]


def test_what_is_parted_from_an_utterance_is_told_to_the_rest_of_it(listener):
    said = " ".join(f"El gato {number} no duerme en la casa de mi hermano." for number in range(9))
    oracle, heard = utterances(listener, said)
    events, contexts = told(oracle, heard, StreamConfig(window=10.0, context=ContextConfig(sentences=1)))
    finals = [e.stable for e in texts(events, Transcript) if e.final]

    assert len(finals) > 2
    assert " ".join(finals) == said
    known = [context for context in contexts if context]
    assert contexts[0] is None
    assert set(known) <= {f"{sentence.strip()}." for sentence in said.split(".")}
    assert all(finals[at].endswith(context) for at, context in enumerate(dict.fromkeys(known)))


def test_without_sentences_only_the_text_is_told(listener, heard):
    _, contexts = told(listener, heard, BRIEF(context=ContextConfig("Ana Belén")))

    assert contexts == ["Ana Belén"] * 3


def test_an_updated_context_holds_from_the_next_utterance_on(listener, heard):
    config, change = BRIEF(context=ContextConfig("Ana")), ContextConfig("Belén")
    _, contexts = told(listener, heard, config, change)
    _, without = told(listener, heard, config, ContextConfig())

    assert contexts == ["Ana", "Belén", "Belén"]
    assert without == ["Ana", None, None]


def test_a_context_that_is_empty_changes_nothing(babbler, listener, heard):
    assert translate(listener, heard) == translate(babbler, heard)


def test_a_model_that_was_not_made_for_a_context_refuses_it(babbler, heard):
    config = BRIEF(context=ContextConfig(sentences=1))
    with pytest.raises(UnsupportedError, match="not for this model"):
        SpeechTranslator(babbler, config)
    translator = SpeechTranslator(babbler, CONFIG)
    with pytest.raises(UnsupportedError, match="not for this model"):
        translator.update(partials=False, context=config.context)
    events = [event for speech in heard for event in translator.push(speech)]

    assert any(not e.final for e in texts(events, Transcript))


@pytest.mark.parametrize("source", ["es", "es,en"])
def test_a_long_context_has_room(listener, heard, source):
    """Also where a pause, and not the window, makes an utterance long."""
    context = ContextConfig(" ".join(["Zyx"] * 120), 20)
    config = BRIEF(source=source, context=context, partial_interval=5.0, window=4.0, max_new_tokens=40)
    _, held = most_held(listener, heard, config)

    assert held <= most_bytes(listener.prompt, listener.config.text, config, torch.float32)
