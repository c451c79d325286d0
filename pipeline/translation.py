"""The back half of one stream: encoded speech in, transcripts and translations out.

Soft tokens extend the KV cache behind the instruction as they arrive. A hypothesis is decoded behind them
(end of the audio, transcript, translations) and cut off again, so that every hypothesis costs its own tokens
only, and of these only the ones that differ from the last hypothesis. What local agreement made stable is
not decoded again but given: a later hypothesis cannot contradict it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from pipeline.config import StreamConfig
from pipeline.model import Gemma3n
from pipeline.speech import Silence, SpeechEnded, SpeechEvent, SpeechHeard, SpeechStarted
from pipeline.text.agreement import LocalAgreement
from pipeline.wire.events import Ack, Event, SpeechEnd, SpeechStart, Transcript, Translation

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

    Raises:
        LanguageError: the model does not know one of the languages.
    """

    def __init__(self, model: Gemma3n, config: StreamConfig) -> None:
        for language in (config.source, *config.targets):
            model.prompt.language(language)
        self._model = model
        self._config = config
        # How many utterances have begun, and the one that has not ended.
        self._count = 0
        self._running: _Utterance | None = None

    def push(self, event: SpeechEvent) -> list[Event]:
        """Take a speech event; returns what came of it."""
        match event:
            case SpeechStarted(time=time):
                self._running = _Utterance(self._model, self._config, self._count, time)
                self._count += 1
                began = SpeechStart(utterance=self._running.number, time=time, audio_time=event.audio_time)
                return [began]
            case SpeechHeard():
                assert self._running is not None
                return self._running.hear(event)
            case SpeechEnded(time=time):
                assert self._running is not None
                running, self._running = self._running, None
                ended = SpeechEnd(utterance=running.number, time=time, audio_time=event.audio_time)
                return [ended, *running.finish(event), Ack(audio_time=time)]
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

    def __init__(self, model: Gemma3n, config: StreamConfig, number: int, start: float) -> None:
        self.number = number
        self._model = model
        self._start = start
        self._partials = config.partials
        self._longest = config.max_new_tokens
        self._interval = max(1, round(config.partial_interval / TOKEN_SECONDS))
        self._transcript = _Text(model, config.agreement)
        self._translations = {target: _Text(model, config.agreement) for target in config.targets}
        # Holds the instruction and the audio heard; hypotheses are cut off again.
        self._cache = model.new_cache()
        model.extend(self._cache, model.prompt.before_audio(config.source, config.targets[0]))
        self._heard = 0

    def hear(self, event: SpeechHeard) -> list[Event]:
        """Take soft tokens; makes a hypothesis whenever there are enough new ones."""
        tokens, events = torch.from_numpy(event.tokens), []
        while len(tokens):
            piece = tokens[: self._interval - self._heard % self._interval]
            tokens = tokens[len(piece) :]
            self._model.extend(self._cache, [self._model.config.audio_token_id] * len(piece), piece)
            self._heard += len(piece)
            if self._partials and self._heard % self._interval == 0:
                end = min(event.time, self._start + self._heard * TOKEN_SECONDS)
                events += self._guess(end, event.audio_time)
        return events

    def finish(self, event: SpeechEnded) -> list[Event]:
        """The final texts."""
        transcript, translations = self._hypothesis()
        about = self._about(event.time, event.audio_time) | {"tentative": "", "final": True}
        return [
            Transcript(**about, stable=transcript),
            *(Translation(**about, target=target, stable=text) for target, text in translations.items()),
        ]

    def _guess(self, end: float, audio_time: float) -> list[Event]:
        transcript, translations = self._hypothesis()
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

    def _hypothesis(self) -> tuple[str, dict[str, str]]:
        """Transcript and translations of the audio heard so far; the cache is left as it was."""
        prompt, end_of_audio = self._model.prompt, self._cache.length
        longest = min(self._longest, SPARE_TOKENS + TRANSCRIPT_TOKENS * self._heard)
        transcript = self._decode(self._transcript, prompt.after_audio(), longest, prompt.transcript_stop_ids)
        translations = {target: text.stable for target, text in self._translations.items()}
        if transcript:
            behind_transcript = self._cache.length
            said = behind_transcript - end_of_audio
            longest = min(self._longest, SPARE_TOKENS + TRANSLATION_TOKENS * said)
            for target, text in self._translations.items():
                label = prompt.translation_label(target)
                translations[target] = self._decode(text, label, longest, prompt.stop_ids)
                self._cache.truncate(behind_transcript)
        self._cache.truncate(end_of_audio)
        return transcript, translations

    def _decode(self, text: _Text, before: list[int], longest: int, stop_ids: Collection[int]) -> str:
        room = max(0, longest - len(text.given))
        ids = self._model.greedy(self._cache, [*before, *text.given], room, stop_ids, text.draft())
        return text.whole(ids)
