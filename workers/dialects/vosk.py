"""The protocol of vosk-server, ``/v1/vosk/LOCALE``: BigBlueButton, FreeSWITCH and Asterisk speak it.

Every piece of audio is answered by exactly one message, for many clients send the next piece only then: by
the text of utterances that have ended since, else by how the running one begins. ``{"eof" : 1}`` is answered
by what is left, and the connection is closed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.config import AudioFormat
from pipeline.errors import AudioError, ProtocolError
from pipeline.wire import commands, events
from pipeline.wire.events import Event, UtteranceText
from workers.dialects.base import UNSPACED, Dialect, Reply, Step, parsed, primary

DEFAULT_RATE = 8_000
"""Samples per second of clients that send no configuration, as in vosk-server."""


class Vosk(Dialect):
    """One connection.

    There are no ``result`` lists, for there are no times of words. ``phrase_list``, ``words``,
    ``max_alternatives`` and whatever else is configured is accepted and ignored.

    Args:
        locale: from the address; what is spoken.
        query: of the address; with ``target``, that translation is the text.
    """

    def __init__(self, locale: str, query: Mapping[str, str]) -> None:
        self._source = primary(locale)
        self._target = primary(query["target"]) if "target" in query else None
        self._rate = DEFAULT_RATE
        self._started = False
        # Final texts that the client has not been told, and the one that is running.
        self._finals: list[str] = []
        self._partial = ""

    def receive(self, message: str | bytes) -> Sequence[Step]:
        """Audio is carried on and answered; of configurations the sample rate counts, before the audio."""
        if isinstance(message, bytes):
            return [*self._begin(), message, Reply(self._answer())]
        given = parsed(message)
        if "config" in given:
            self._configure(given["config"])
        if given.get("eof"):
            return [*self._begin(), commands.Stop()]
        return [commands.Flush()] if given.get("reset") and self._started else []

    def _configure(self, config: Any) -> None:
        rate = config.get("sample_rate", self._rate) if isinstance(config, dict) else None
        try:
            self._rate = int(float(rate))  # type: ignore[arg-type]
            AudioFormat(sample_rate=self._rate)
        except (TypeError, ValueError, OverflowError, AudioError):
            raise ProtocolError(
                f"config.sample_rate must be a number from 8000 to 192000, got {str(rate)[:60]!a}"
            ) from None

    def _begin(self) -> list[Step]:
        if self._started:
            return []
        self._started = True
        targets = () if self._target is None else (self._target,)
        return [commands.Start(self._source, targets, AudioFormat(sample_rate=self._rate))]

    def render(self, event: Event) -> Iterable[str]:
        """Only the end is told at once. Vosk has no message for an error; the close code has to do."""
        match event:
            case events.Transcript() if self._target is None:
                self._hear(event)
            case events.Translation():
                self._hear(event)
            case events.Done():
                return (json.dumps({"text": self._take_finals()}, ensure_ascii=False),)
        return ()

    def _hear(self, event: UtteranceText) -> None:
        if not event.final:
            self._partial = event.stable + event.tentative
            return
        self._partial = ""
        if event.stable:
            self._finals.append(event.stable)

    def _answer(self) -> str:
        answer = {"text": self._take_finals()} if self._finals else {"partial": self._partial}
        return json.dumps(answer, ensure_ascii=False)

    def _take_finals(self) -> str:
        finals, self._finals = self._finals, []
        return ("" if (self._target or self._source) in UNSPACED else " ").join(finals)
