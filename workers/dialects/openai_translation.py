"""OpenAI's Realtime translation sessions, ``/v1/realtime/translations``.

Audio goes in, one transcript to which is only added comes out: stable text, as it becomes stable. There is
no translated speech, hence no ``session.output_audio.delta``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import ProtocolError
from pipeline.wire import commands, events
from pipeline.wire.events import Event, UtteranceText
from workers.dialects.base import Step, Transcript, primary
from workers.dialects.openai_realtime import RealtimeDialect, language_in, section

FRAME = 0.2
"""``elapsed_ms`` advances in steps of so many seconds."""

SESSION_SECONDS = 3600
"""What the session says of its end, as OpenAI's last; here nothing ends them."""


class TranslationSession(RealtimeDialect):
    """One session: one target language, which can be changed.

    Args:
        query: of the address; besides ``source`` and ``model``, ``target`` is the language that is translated
            into until the client names one.
        languages: codes of those that the model was made for.
    """

    def __init__(self, query: Mapping[str, str], languages: Sequence[str] = ()) -> None:
        super().__init__(query, languages)
        self._target = primary(query.get("target", commands.Start().targets[0]))
        self._expires = int(time.time()) + SESSION_SECONDS
        # The model named for the transcript of what was said; None when it is not wanted.
        self._transcription: dict[str, Any] | None = None
        self._said = Transcript(self._source)
        self._translated = Transcript(self._target)

    def greet(self) -> Iterable[str]:
        """The session with its defaults."""
        return (self._message("session.created", session=self._describe()),)

    def _take(self, kind: str, given: dict[str, Any]) -> Sequence[Step]:
        match kind:
            case "session.update":
                return self._update(section(given, "session", "audio"))
            case "session.input_audio_buffer.append":
                return self._append(given)
            case "session.close":
                return [*self._begin(), commands.Stop()]
        raise ProtocolError(
            f"unknown event type {kind[:60]!a}; accepted are session.update, "
            "session.input_audio_buffer.append and session.close",
            code="unknown_type",
        )

    def _update(self, audio: Mapping[str, Any]) -> Sequence[Step]:
        target = language_in(section(audio, "output"), "language")
        listening = section(audio, "input")
        if "transcription" in listening:
            wanted = section(listening, "transcription")
            self._transcription = wanted if listening["transcription"] is not None else None
        changed: list[Step] = []
        if target is not None and target != self._target:
            self._target = target
            if self._started:
                changed.append(commands.Update(targets=(target,)))
        return [*changed, self._reply("session.updated", session=self._describe())]

    def _start(self) -> commands.Start:
        return commands.Start(source=self._source, targets=(self._target,), audio=self._audio)

    def _tell(self, event: Event) -> Iterable[str]:
        match event:
            case events.Transcript() if self._transcription is not None:
                return self._delta("session.input_transcript.delta", self._said, event)
            case events.Translation():
                return self._delta("session.output_transcript.delta", self._translated, event)
            case events.Done():
                return (self._message("session.closed"),)
        return ()

    def _delta(self, kind: str, transcript: Transcript, event: UtteranceText) -> Iterable[str]:
        delta = transcript.add(event)
        if not delta:
            return ()
        elapsed = int(event.audio_time / FRAME) * int(FRAME * 1000)
        return (self._message(kind, delta=delta, elapsed_ms=elapsed),)

    def _describe(self) -> dict[str, Any]:
        return {
            "id": self._session,
            "type": "translation",
            "model": self._model,
            "expires_at": self._expires,
            "audio": {
                "input": {"transcription": self._transcription, "noise_reduction": None},
                "output": {"language": self._target},
            },
        }
