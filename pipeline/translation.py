"""The back half of one stream: encoded speech in, transcripts and translations out.

Soft tokens extend the KV cache behind the instruction as they arrive. A hypothesis is decoded in a fork of
that cache (end of the audio, transcript, and in forks of it the translations), so that every hypothesis costs
its own tokens only, and of these only the ones that differ from the last hypothesis. What local agreement
made stable is not decoded again but given: a later hypothesis cannot contradict it.

All work for the model is yielded (:mod:`pipeline.batching`), to be done for one stream or for many at once.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from pipeline.batching import run_alone
from pipeline.config import StreamConfig, TextConfig
from pipeline.gemma import cache
from pipeline.gemma.cache import KVPool
from pipeline.gemma.greedy import Segment, go_on, greedy
from pipeline.gemma.matformer import Widths, kv_group
from pipeline.gemma.prompt import Prompt
from pipeline.model import Gemma3n
from pipeline.speech import Silence, SpeechEnded, SpeechEvent, SpeechHeard, SpeechStarted
from pipeline.text.agreement import LocalAgreement
from pipeline.wire.events import Ack, Event, SpeechEnd, SpeechStart, Transcript, Translation

Result = TypeVar("Result")

Decoded: TypeAlias = Generator[Segment, list[int], Result]
"""Yields work for the decoder, receives what it says, and returns a result."""

TOKEN_SECONDS = 0.16
"""Audio per soft token."""

TRANSCRIPT_TOKENS = 3
"""Most tokens of a transcript per soft token of its audio, twice what fast speech has: a loop ends there."""

TRANSLATION_TOKENS = 3
"""Most tokens of a translation per token of its transcript."""

SPARE_TOKENS = 16
"""Allowed besides, so that these rules do not cut very short texts."""


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
        self._config = config
        self._pool = pool or model.new_pool()
        self._ffn_widths = ffn_widths
        # How many utterances have begun, and the one that has not ended.
        self._count = 0
        self._running: _Utterance | None = None

    def push(self, event: SpeechEvent) -> list[Event]:
        """Take a speech event; returns what came of it."""
        return run_alone(self.steps(event), self._model.step)

    def steps(self, event: SpeechEvent) -> Decoded[list[Event]]:
        """The same, with the work for the decoder left to the caller."""
        match event:
            case SpeechStarted(time=time):
                self._running = _Utterance(
                    self._model, self._pool, self._config, self._count, time, ffn_widths=self._ffn_widths
                )
                self._count += 1
                began = SpeechStart(utterance=self._running.number, time=time, audio_time=event.audio_time)
                return [began]
            case SpeechHeard():
                assert self._running is not None
                return (yield from self._running.hear(event))
            case SpeechEnded(time=time):
                assert self._running is not None
                running, self._running = self._running, None
                ended = SpeechEnd(utterance=running.number, time=time, audio_time=event.audio_time)
                finals = yield from running.finish(event)
                return [ended, *finals, Ack(audio_time=time)]
            case Silence(time=time):
                return [Ack(audio_time=time)]

    def update(self, *, targets: tuple[str, ...] | None = None, partials: bool | None = None) -> None:
        """Change settings from the next utterance on; None leaves one as it is.

        Raises:
            LanguageError: the model does not know one of the targets; then nothing is changed.
        """
        for language in targets or ():
            self._model.prompt.language(language)
        self._config = replace(
            self._config,
            targets=targets or self._config.targets,
            partials=self._config.partials if partials is None else partials,
        )


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


class _Text:
    """One text of a running utterance: its transcript, or its translation into one language."""

    def __init__(self, model: Gemma3n, agreement: int) -> None:
        self._model = model
        self._agreement = LocalAgreement(agreement)
        # Token ids of the stable text, with which a hypothesis begins.
        self.given: list[int] = []
        # Token ids of the last hypothesis, the stable text's included.
        self._ids: list[int] = []
        # What the client has been sent.
        self._sent = ("", "")

    @property
    def stable(self) -> str:
        """What has been shown and stays."""
        return self._agreement.stable

    def draft(self) -> list[int]:
        """How the last hypothesis went on behind the stable text."""
        return self._ids[len(self.given) :]

    def room(self, longest: int) -> tuple[int, list[int]]:
        """How many tokens may be decoded behind the stable text, and the draft of them."""
        room = max(0, longest - len(self.given))
        return room, self.draft()[:room]

    def whole(self, ids: Sequence[int]) -> str:
        """The text of a hypothesis, of which ``ids`` were decoded behind the stable text."""
        decode, stable = self._model.tokenizer.decode, self.stable
        self._ids = [*self.given, *ids]
        # Only what is new is taken from the tokenizer: stable text stays as it was shown.
        new = decode(self._ids)[len(decode(self.given)) :]
        return (stable + new if stable else new.lstrip()).rstrip()

    def agree(self, text: str) -> tuple[str, str] | None:
        """Take a hypothesis; returns what is stable and what is tentative, or None if it was sent before."""
        tentative = self._agreement.push(text)
        self.given = self._model.prompt.words(self.stable)
        state = (self.stable, tentative)
        if state == self._sent:
            return None
        self._sent = state
        return state


class _Utterance:
    """An utterance that has not ended."""

    def __init__(
        self,
        model: Gemma3n,
        pool: KVPool,
        config: StreamConfig,
        number: int,
        start: float,
        *,
        ffn_widths: Widths | None,
    ) -> None:
        self.number = number
        self.ffn_widths = ffn_widths
        self._model = model
        self._start = start
        self._partials = config.partials
        self._longest = config.max_new_tokens
        self._interval = _interval(config)
        self._transcript = _Text(model, config.agreement)
        self._translations = {target: _Text(model, config.agreement) for target in config.targets}
        # Holds the instruction and the audio heard, but for soft tokens that are fewer than an interval has:
        # these go in with what comes behind them.
        self._cache = model.new_cache(pool, sum(most_positions(model.prompt, config)))
        self._instruction = _instruction(model.prompt, config)
        self._pending = torch.empty(0, model.config.text.hidden_size)
        self._heard = 0

    def hear(self, event: SpeechHeard) -> Decoded[list[Event]]:
        """Take soft tokens; makes a hypothesis whenever there are enough new ones."""
        tokens = torch.from_numpy(event.tokens)
        events: list[Event] = []
        while len(tokens):
            piece = tokens[: self._interval - len(self._pending)]
            tokens = tokens[len(piece) :]
            self._pending = torch.cat([self._pending, piece])
            self._heard += len(piece)
            if len(self._pending) < self._interval:
                continue
            if self._partials:
                end = min(event.time, self._start + self._heard * TOKEN_SECONDS)
                events += yield from self._guess(end, event.audio_time)
            else:
                ids, audio = self._take_pending()
                yield Segment(self._cache, ids, 0, audio, self.ffn_widths)
        return events

    def finish(self, event: SpeechEnded) -> Decoded[list[Event]]:
        """The final texts."""
        transcript, translations = yield from self._hypothesis()
        about = self._about(event.time, event.audio_time) | {"tentative": "", "final": True}
        return [
            Transcript(**about, stable=transcript),
            *(Translation(**about, target=target, stable=text) for target, text in translations.items()),
        ]

    def _guess(self, end: float, audio_time: float) -> Decoded[list[Event]]:
        transcript, translations = yield from self._hypothesis()
        about = self._about(end, audio_time) | {"final": False}
        events: list[Event] = []
        if state := self._transcript.agree(transcript):
            events.append(Transcript(**about, stable=state[0], tentative=state[1]))
        for target, text in translations.items():
            if state := self._translations[target].agree(text):
                events.append(Translation(**about, target=target, stable=state[0], tentative=state[1]))
        return events

    def _about(self, end: float, audio_time: float) -> dict[str, Any]:
        return {"utterance": self.number, "start": self._start, "end": end, "audio_time": audio_time}

    def _take_pending(self) -> tuple[list[int], Tensor | None]:
        """Ids and soft tokens that the cache does not hold yet."""
        audio, self._pending = self._pending, self._pending[:0]
        ids = [*self._instruction, *[self._model.config.audio_token_id] * len(audio)]
        self._instruction = []
        return ids, audio if len(audio) else None

    def _hypothesis(self) -> Decoded[tuple[str, dict[str, str]]]:
        """Transcript and translations of the audio heard so far."""
        prompt = self._model.prompt
        pending, audio = self._take_pending()
        end_of_audio = self._cache.length + len(pending)
        longest = min(self._longest, SPARE_TOKENS + TRANSCRIPT_TOKENS * self._heard)
        room, draft = self._transcript.room(longest)
        # What is pending, what comes behind it and the draft go in together; the fork takes all of it, and
        # what holds the audio is cut back to that.
        ids = [*pending, *prompt.after_audio(), *self._transcript.given, *draft]
        choices = yield Segment(self._cache, ids, len(draft) + 1, audio, self.ffn_widths)
        branch = self._cache.fork()
        self._cache.truncate(end_of_audio)
        decoded = yield from go_on(
            branch, draft, choices, room, prompt.transcript_stop_ids, ffn_widths=self.ffn_widths
        )
        transcript = self._transcript.whole(decoded)
        translations = {target: text.stable for target, text in self._translations.items()}
        if transcript:
            said = branch.length - end_of_audio
            longest = min(self._longest, SPARE_TOKENS + TRANSLATION_TOKENS * said)
            for target, text in self._translations.items():
                room, draft = text.room(longest)
                ids = [*prompt.translation_label(target), *text.given]
                decoded = yield from greedy(
                    branch.fork(), ids, room, prompt.stop_ids, draft, ffn_widths=self.ffn_widths
                )
                translations[target] = text.whole(decoded)
        return transcript, translations


def _instruction(prompt: Prompt, config: StreamConfig) -> list[int]:
    """What stands before the audio; it names a target also where nothing is to be translated."""
    others = (language for language in prompt.languages if language != config.source)
    target = config.targets[0] if config.targets else next(others, config.source)
    return prompt.before_audio(config.source, target)


def _interval(config: StreamConfig) -> int:
    """Soft tokens from one hypothesis to the next."""
    return max(1, round(config.partial_interval / TOKEN_SECONDS))


def most_positions(prompt: Prompt, config: StreamConfig) -> tuple[int, int, int]:
    """Longest sequences of a stream, in positions.

    Args:
        prompt: of the model.
        config: the stream's.

    Returns:
        Of the instruction with an utterance's audio; of all that is decoded behind that, up to the end of
        the transcript; and of a translation behind that.
    """
    spoken = math.ceil(config.gate.max_utterance / TOKEN_SECONDS) + 2
    # Stable text is tokenised anew, which may take a few tokens more than decoding it took.
    text = config.max_new_tokens + SPARE_TOKENS
    label = max((len(prompt.translation_label(target)) for target in config.targets), default=0)
    audio = len(_instruction(prompt, config)) + spoken
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
    instruction = len(_instruction(prompt, config))
    return cache.most_bytes(
        text, dtype, trunk=audio, piece=instruction + _interval(config), branches=[transcript, translation]
    )
