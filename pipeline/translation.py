"""The back half of one stream: encoded speech in, transcripts and translations out.

An utterance (:mod:`pipeline.utterance`) is what is said between two pauses. Who speaks on without one fills
the decoder's window; then the beginning becomes an utterance of its own, and another one takes over the rest.

All work for the model is yielded (:mod:`pipeline.batching`), to be done for one stream or for many at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import torch

from pipeline.batching import run_alone
from pipeline.config import CONTEXT_SENTENCES, ContextConfig, StreamConfig, TextConfig
from pipeline.errors import UnsupportedError
from pipeline.gemma import cache
from pipeline.gemma.cache import KVPool
from pipeline.gemma.matformer import Widths, kv_group
from pipeline.gemma.prompt import Prompt
from pipeline.model import Gemma3n
from pipeline.running_text import TOKEN_SECONDS, instruction, interval, longest_instruction
from pipeline.speech import Silence, SpeechEnded, SpeechEvent, SpeechHeard, SpeechPaused, SpeechStarted
from pipeline.text import sentences
from pipeline.text.stability import words
from pipeline.utterance import SPARE_TOKENS, Decoded, Rest, Utterance
from pipeline.wire.events import Ack, Event, SpeechEnd, SpeechStart, Transcript

Checkpoint: TypeAlias = tuple[StreamConfig, int, Rest | None, tuple[str, ...]]
"""Settings, how many utterances have begun, what an utterance that has taken over began with, and the
sentences that were last said."""


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
        for language in (config.source, *config.targets):
            model.prompt.language(language)
        self._model = model
        self._check(config.context)
        self._config = config
        self._pool = pool or model.new_pool()
        self._ffn_widths = ffn_widths
        # How many utterances have begun, and the one that has not ended.
        self._count = 0
        self._running: Utterance | None = None
        # Whether the running utterance has taken over what another one left, and no checkpoint tells it yet.
        self._parted = False
        # As many of the last final sentences of the transcript as a context may have.
        self._said: tuple[str, ...] = ()
        # Stable text with which an utterance to come begins, and the number of that.
        self._shown: Mapping[str, str] = {}
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
                assert self._running is not None
                yield from self._running.foresee(torch.from_numpy(tokens))
                return []
            case SpeechEnded(time=time, margin=margin):
                assert self._running is not None
                running, self._running = self._running, None
                spoken = max(time - margin, running.begin)
                finals = yield from running.finish(spoken, event.audio_time)
                return self._ended(running, finals, event, spoken, time)
            case Silence(time=time):
                return [Ack(audio_time=time)]

    def _hear(self, event: SpeechHeard) -> Decoded[list[Event]]:
        tokens = torch.from_numpy(event.tokens)
        events: list[Event] = []
        while len(tokens):
            running = self._running
            assert running is not None
            taken, came, rest = yield from running.hear(tokens, event.time, event.audio_time)
            tokens = tokens[taken:]
            if rest is None:
                events += came
                continue
            events += self._ended(running, came, event, rest.start, rest.start)
            events += self._begin(rest, event)
            self._parted = True
        return events

    def _begin(self, rest: Rest, event: SpeechEvent) -> list[Event]:
        positions = sum(most_positions(self._model.prompt, self._config))
        self._running = running = Utterance(
            self._model,
            self._pool,
            self._config,
            self._count,
            rest,
            before=instruction(self._model.prompt, self._config, self._recent()),
            positions=positions,
            ffn_widths=self._ffn_widths,
        )
        self._count += 1
        if running.number == self._shown_of:
            running.keep(self._shown)
        began = SpeechStart(utterance=running.number, time=running.begin, audio_time=event.audio_time)
        return [began, *running.opening(event.audio_time)]

    def _ended(
        self, ended: Utterance, finals: list[Event], event: SpeechEvent, spoken: float, time: float
    ) -> list[Event]:
        """What is told of an utterance whose speech ends at ``spoken``, and its audio at ``time``."""
        end = SpeechEnd(utterance=ended.number, time=spoken, audio_time=event.audio_time)
        for final in finals:
            if isinstance(final, Transcript):
                said = sentences.split(words(final.stable))
                self._said = (*self._said, *said)[-CONTEXT_SENTENCES:]
        return [end, *finals, Ack(audio_time=time)]

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
        )

    def checkpoint(self) -> Checkpoint | None:
        """What another translator needs to go on from here with :meth:`resume`.

        Returns:
            None during an utterance, but once when it has just taken over what another one left.
        """
        parted, self._parted = self._parted, False
        if self._running is None:
            return self._config, self._count, None, self._said
        rest = self._running.rest if parted else None
        return None if rest is None else (self._config, self._count - 1, rest, self._said)

    def resume(self, checkpoint: Checkpoint | None, utterance: int, shown: Mapping[str, str]) -> None:
        """Go on where another translator was. The speech events since its checkpoint have to be pushed again.

        Args:
            checkpoint: of that one; None for one that had none yet.
            utterance: number of the utterance that it had not finished,
            shown: and its stable text, which must not change: of its translations by target, of its
                transcript as ``""``.
        """
        self._shown_of, self._shown = utterance, dict(shown)
        if checkpoint is None:
            return
        self._config, self._count, rest, self._said = checkpoint
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
        text, running = self._model.config.text, self._running
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
    branches = [pause, transcript, translation]
    # What an utterance takes over from another one comes in one piece.
    return cache.most_bytes(text, dtype, trunk=audio, piece=audio, branches=branches)
