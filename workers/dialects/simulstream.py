"""The WebSocket protocol of simulstream (FBK), ``/v1/simulstream``: its client and its metrics work here.

What is told is stable text alone, so nothing is ever ``deleted``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.config import AudioFormat
from pipeline.errors import AudioError, ProtocolError
from pipeline.wire import commands, events
from pipeline.wire.events import Event
from workers.dialects.base import Dialect, Step, Transcript, parsed, primary


class Simulstream(Dialect):
    """One connection: metadata, 16-bit audio, ``end_of_stream``."""

    def __init__(self) -> None:
        self._source, (self._target,) = commands.Start.source, commands.Start.targets
        self._audio = AudioFormat()
        self._started = False
        self._text = Transcript(self._target)

    def receive(self, message: str | bytes) -> Sequence[Step]:
        """Metadata counts until the first audio; fields that are not known are ignored."""
        if isinstance(message, bytes):
            return [*self._begin(), message]
        given = parsed(message)
        if "end_of_stream" in given:
            return [*self._begin(), commands.Stop()]
        self._describe(given)
        return []

    def _describe(self, given: dict[str, Any]) -> None:
        try:
            self._audio = AudioFormat(sample_rate=int(given.get("sample_rate", self._audio.sample_rate)))
        except (TypeError, ValueError, OverflowError, AudioError) as error:
            raise ProtocolError(f"sample_rate is not accepted: {str(error)[:200]}") from None
        self._source = primary(str(given.get("source_lang", self._source)))
        self._target = primary(str(given.get("target_lang", self._target)))
        if not self._started:
            self._text = Transcript(self._target)

    def _begin(self) -> list[Step]:
        if self._started:
            return []
        self._started = True
        return [commands.Start(self._source, (self._target,), self._audio)]

    def render(self, event: Event) -> Iterable[str]:
        """What translations add; errors have no message here, the close code has to do."""
        match event:
            case events.Translation():
                added = self._text.add(event)
                return (json.dumps({"new": added, "deleted": ""}, ensure_ascii=False),) if added else ()
            case events.Done():
                return ('{"end_of_processing": true}',)
        return ()
