"""The back half of one stream: encoded speech in, transcripts and translations out.

An utterance (:mod:`pipeline.utterance`) is what is said between two pauses. Who speaks on without one fills
the decoder's window; then the beginning becomes an utterance of its own, and another one takes over the rest.

All work for the model is yielded (:mod:`pipeline.batching`), to be done for one stream or for many at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeAlias

import torch
from torch import Tensor

from pipeline.batching import run_alone
from pipeline.config import CONTEXT_SENTENCES, ContextConfig, StreamConfig, TextConfig
from pipeline.errors import UnsupportedError
from pipeline.gemma import cache
from pipeline.gemma.bias import Biases
from pipeline.gemma.cache import KVPool
from pipeline.gemma.matformer import Widths, kv_group
from pipeline.gemma.prompt import Prompt
from pipeline.glossary import Entry
from pipeline.language import Undecided, trial_positions
from pipeline.model import Gemma3n
from pipeline.running_text import TOKEN_SECONDS, instruction, interval, longest_instruction, spoken_in
from pipeline.speech import Silence, SpeechEnded, SpeechEvent, SpeechHeard, SpeechPaused, SpeechStarted
from pipeline.text import sentences
from pipeline.text.stability import words
from pipeline.utterance import SPARE_TOKENS, Decoded, Rest, Utterance
from pipeline.wire.events import (
    Ack,
    Event,
    SpeechEnd,
    SpeechStart,
    Transcript,
    Translation,
    UtteranceText,
)

Checkpoint: TypeAlias = tuple[StreamConfig, int, Rest | None, tuple[str, ...], str]
"""Settings, how many utterances have begun, what an utterance that has taken over began with, the sentences
that were last said, and the language of the last utterance."""


class SpeechTranslator:
    """Turns speech events of one stream into events for its client.

    When hypotheses are made depends on the soft tokens alone, so the final texts do not depend on how many
    of them an event brings.

    Args:
        model: whose decoder to use.
        config: the stream's.
        pool: where caches are, the same for all streams whose steps are done together; None for one of its
            own.
        ffn_widths: of the MatFormer sub-model to begin with; None for the whole model.

    Raises:
        LanguageError: the model does not know one of the languages.
        UnsupportedError: there is a context, and the model was not made for one.
    """

    def __init__(
        self,
        model: Gemma3n,
        config: StreamConfig,
        pool: KVPool | None = None,
        ffn_widths: Widths | None = None,
    ) -> None:
        for language in config.targets:
            model.prompt.language(language)
        self._sources = model.prompt.sources(config.source)
        self._model = model
        self._check(config.context)
        self._config = config
        self._biases = Biases(config.glossary, model.tokenizer.encode)
        self._pool = pool or model.new_pool()
        self._ffn_widths = ffn_widths
        # How many utterances have begun, and the one that has not ended.
        self._count = 0
        self._running: Utterance | None = None
        # The beginning of one whose language is not known, and what of its end is not in it.
        self._undecided: Undecided | None = None
        self._tail: Tensor | None = None
        # That of the last utterance whose language is known; empty for none.
        self._language = ""
        # Settings as they were when the last utterance began.
        self._spoken = config
        # Whether the running utterance has taken over what another one left, and no checkpoint tells it yet.
        self._parted = False
        # As many of the last final sentences of the transcript as a context may have.
        self._said: tuple[str, ...] = ()
        # Stable text with which an utterance to come begins, its language, and the number of that.
        self._shown: Mapping[str, str] = {}
        self._shown_in = ""
        self._shown_of = 0

    def push(self, event: SpeechEvent) -> list[Event]:
        """Take a speech event; returns what came of it."""
        return run_alone(self.steps(event), self._model.step)

    def steps(self, event: SpeechEvent) -> Decoded[list[Event]]:
        """The same, with the work for the decoder left to the caller."""
        match event:
            case SpeechStarted(time=time, margin=margin):
                nothing = torch.empty(0, self._model.config.text.hidden_size)
                return self._begin(Rest(time, nothing, margin=margin), event)
            case SpeechHeard():
                return (yield from self._hear(event))
            case SpeechPaused(tokens=tokens):
                self._tail = torch.from_numpy(tokens)
                if self._running is not None:
                    yield from self._running.foresee(self._tail)
                    self._tail = None
                return []
            case SpeechEnded():
                return (yield from self._end(event))
            case Silence(time=time):
                return [Ack(audio_time=time)]

    def _hear(self, event: SpeechHeard) -> Decoded[list[Event]]:
        self._tail = None
        return (yield from self._take(torch.from_numpy(event.tokens), event.time, event))

    def _take(self, tokens: Tensor, time: float, event: SpeechEvent) -> Decoded[list[Event]]:
        """Hear soft tokens; ``time`` is where the speech in them ends."""
        events: list[Event] = []
        while len(tokens):
            if self._undecided is not None:
                undecided = self._undecided
                taken, text = yield from undecided.hear(tokens)
                tokens = tokens[taken:]
                if undecided.language is not None:
                    # From here on it is as if the language had been known from the beginning.
                    tokens = torch.cat([undecided.held, tokens])
                    events += self._decided(undecided, event)
                elif text and self._config.partials:
                    events.append(
                        Transcript(
                            utterance=self._count - 1,
                            start=undecided.begin,
                            end=max(undecided.begin, min(time, undecided.end)),
                            stable="",
                            tentative=text,
                            final=False,
                            audio_time=event.audio_time,
                        )
                    )
                continue
            running = self._running
            assert running is not None
            taken, came, rest = yield from running.hear(tokens, time, event.audio_time)
            tokens = tokens[taken:]
            if rest is None:
                events += self._told(came)
                continue
            events += self._ended(running, came, event, rest.start, rest.start)
            events += self._begin(rest, event)
            self._parted = True
        return events

    def _end(self, event: SpeechEnded) -> Decoded[list[Event]]:
        """The utterance ends; if nobody knows its language yet, that is decided now."""
        events: list[Event] = []
        tail = torch.empty(0, self._model.config.text.hidden_size) if self._tail is None else self._tail
        while self._undecided is not None:
            undecided = self._undecided
            yield from undecided.conclude(tail)
            events += self._decided(undecided, event)
            events += yield from self._take(undecided.held, event.time, event)
        running, self._running = self._running, None
        assert running is not None
        if self._tail is not None:
            yield from running.foresee(self._tail)
            self._tail = None
        spoken = max(event.time - event.margin, running.begin)
        finals = yield from running.finish(spoken, event.audio_time)
        return [*events, *self._ended(running, finals, event, spoken, event.time)]

    def _begin(self, rest: Rest, event: SpeechEvent) -> list[Event]:
        self._count += 1
        time = rest.start + rest.margin
        began = SpeechStart(utterance=self._count - 1, time=time, audio_time=event.audio_time)
        if len(self._sources) == 1:
            (language,) = self._sources
            return [began, *self._utter(rest, self._config, language, event)]
        self._undecided = Undecided(
            self._model,
            self._pool,
            self._config,
            rest,
            before={language: self._before(self._config, language) for language in self._sources},
            before_it=self._language,
            ffn_widths=self._ffn_widths,
        )
        if self._count - 1 == self._shown_of and self._shown_in in self._sources:
            # What was decided once stays, however near the next language was.
            self._undecided.language = self._shown_in
            return [began, *self._decided(self._undecided, event)]
        return [began]

    def _decided(self, undecided: Undecided, event: SpeechEvent) -> list[Event]:
        assert undecided.language is not None
        self._undecided, self._language, self._parted = None, undecided.language, False
        return self._utter(undecided.begun_with, undecided.config, undecided.language, event)

    def _utter(self, rest: Rest, config: StreamConfig, language: str, event: SpeechEvent) -> list[Event]:
        """Begin an utterance in a language."""
        self._language, self._spoken = language, config
        spoken = spoken_in(config, language)
        self._running = running = Utterance(
            self._model,
            self._pool,
            spoken,
            self._count - 1,
            rest,
            before=self._before(config, language),
            biases=self._drawn(config),
            positions=sum(most_positions(self._model.prompt, config)),
            ffn_widths=self._ffn_widths,
        )
        if running.number == self._shown_of:
            kept = ("", *spoken.targets)
            running.keep({target: text for target, text in self._shown.items() if target in kept})
        return self._told(running.opening(event.audio_time))

    def _before(self, config: StreamConfig, language: str) -> list[int]:
        """What stands before the audio of an utterance in a language."""
        return instruction(self._model.prompt, spoken_in(config, language), self._recent())

    def _drawn(self, config: StreamConfig) -> Biases:
        """What texts are drawn to; terms are tokenised once for all utterances that have the same ones."""
        if config.glossary != self._biases.glossary:
            self._biases = Biases(config.glossary, self._model.tokenizer.encode)
        return self._biases

    def _told(self, events: list[Event]) -> list[Event]:
        """Events of the running utterance with what its language adds to them.

        Its transcript is its text in the target that it is spoken in, if it is in one.
        """
        if len(self._sources) == 1:
            return events
        told: list[Event] = []
        for event in events:
            if not isinstance(event, Transcript):
                told.append(event)
                continue
            told.append(replace(event, language=self._language))
            if self._language in self._spoken.targets:
                about = {item.name: getattr(event, item.name) for item in fields(UtteranceText)}
                told.append(Translation(**about, target=self._language))
        return told

    def _ended(
        self, ended: Utterance, finals: list[Event], event: SpeechEvent, spoken: float, time: float
    ) -> list[Event]:
        """What is told of an utterance whose speech ends at ``spoken``, and its audio at ``time``."""
        end = SpeechEnd(utterance=ended.number, time=spoken, audio_time=event.audio_time)
        for final in finals:
            if isinstance(final, Transcript):
                said = sentences.split(words(final.stable))
                self._said = (*self._said, *said)[-CONTEXT_SENTENCES:]
        return [end, *self._told(finals), Ack(audio_time=time)]

    def _recent(self) -> tuple[str, ...]:
        """The sentences that the next utterance is told."""
        return self._said[len(self._said) - min(len(self._said), self._config.context.sentences) :]

    def _check(self, context: ContextConfig | None) -> None:
        if context and not self._model.prompt.takes_context:
            raise UnsupportedError("context is not for this model: it was not made to be told anything")

    def update(
        self,
        *,
        targets: tuple[str, ...] | None = None,
        partials: bool | None = None,
        context: ContextConfig | None = None,
        glossary: tuple[Entry, ...] | None = None,
    ) -> None:
        """Change settings from the next utterance on; None leaves one as it is.

        Raises:
            LanguageError: the model does not know one of the targets; then nothing is changed.
            UnsupportedError: there is a context, and the model was not made for one; the same.
        """
        for language in targets or ():
            self._model.prompt.language(language)
        self._check(context)
        self._config = replace(
            self._config,
            targets=targets or self._config.targets,
            partials=self._config.partials if partials is None else partials,
            context=self._config.context if context is None else context,
            glossary=self._config.glossary if glossary is None else glossary,
        )

    def checkpoint(self) -> Checkpoint | None:
        """What another translator needs to go on from here with :meth:`resume`.

        Returns:
            None during an utterance, but once when it has just taken over what another one left.
        """
        parted, self._parted = self._parted, False
        running = self._undecided or self._running
        if running is None:
            return self._config, self._count, None, self._said, self._language
        rest = running.rest if parted else None
        return None if rest is None else (self._config, self._count - 1, rest, self._said, self._language)

    def resume(
        self, checkpoint: Checkpoint | None, utterance: int, shown: Mapping[str, str], language: str = ""
    ) -> None:
        """Go on where another translator was. The speech events since its checkpoint have to be pushed again.

        Args:
            checkpoint: of that one; None for one that had none yet.
            utterance: number of the utterance that it had not finished,
            shown: and its stable text, which must not change: of its translations by target, of its
                transcript as ``""``,
            language: and its language, where that was to be detected and has been told; empty otherwise.
        """
        self._shown_of, self._shown, self._shown_in = utterance, dict(shown), language
        if checkpoint is None:
            return
        self._config, self._count, rest, self._said, self._language = checkpoint
        if rest is not None:
            self._begin(rest, Silence(audio_time=rest.start, time=rest.start))

    def resize(self, ffn_widths: Widths | None) -> None:
        """Go on in another MatFormer sub-model.

        It takes over at once if its keys and values are those of the running utterance's sub-model, and with
        the next utterance otherwise.

        Args:
            ffn_widths: of the sub-model; None for the whole model.
        """
        self._ffn_widths = ffn_widths
        text, running = self._model.config.text, self._undecided or self._running
        if running is not None and kv_group(text, ffn_widths) == kv_group(text, running.ffn_widths):
            running.ffn_widths = ffn_widths


def most_positions(prompt: Prompt, config: StreamConfig) -> tuple[int, int, int]:
    """Longest sequences of a stream, in positions.

    Args:
        prompt: of the model.
        config: the stream's.

    Returns:
        Of the instruction with an utterance's audio; of all that is decoded behind that, up to the end of
        the transcript; and of a translation behind that.
    """
    spoken = math.ceil(config.window / TOKEN_SECONDS) + interval(config) + 2
    # Stable text is tokenised anew, which may take a few tokens more than decoding it took.
    text = config.max_new_tokens + SPARE_TOKENS
    label = max((len(prompt.translation_label(target)) for target in config.targets), default=0)
    audio = longest_instruction(prompt, config) + spoken
    return audio, len(prompt.after_audio()) + text, label + text


def most_bytes(prompt: Prompt, text: TextConfig, config: StreamConfig, dtype: torch.dtype) -> int:
    """Upper bound of what the caches of one stream hold at any time.

    Args:
        prompt: of the model.
        text: sizes of its decoder.
        config: the stream's.
        dtype: of keys and values.
    """
    audio, transcript, translation = most_positions(prompt, config)
    # What a pause may be the end of branches off with what the cache does not hold yet.
    pause = longest_instruction(prompt, config) + interval(config) + 2
    # Of a search the texts that go on are held and those that have ended; that of the transcript is over when
    # those of all translations begin.
    copies = 1 if config.beams == 1 else 2 * config.beams
    translations = [translation] * len(config.targets) * copies
    branches = [pause, *max([transcript] * copies, [transcript, *translations], key=sum)]
    sources = prompt.sources(config.source)
    if len(sources) > 1:
        # What is decoded to find the language comes before, and goes in copies.
        trial = trial_positions(longest_instruction(prompt, config), len(prompt.after_audio()))
        branches += [trial, trial] * len(sources)
    # What an utterance takes over from another one comes in one piece.
    return cache.most_bytes(text, dtype, trunk=audio, piece=audio, branches=branches)
