"""What is to be seen of a stream, whichever gateway has it."""

from __future__ import annotations

from collections import deque

from pipeline.config import StreamConfig
from pipeline.text.subtitles import Cue
from pipeline.wire import events
from pipeline.wire.events import Event
from workers.eventlog import EventLog

KEPT_FINALS = 20_000
"""Finals that a stream keeps for its subtitle files: a day and night of speech."""


class Published:
    """A stream as those see it who watch.

    Args:
        stream_id: its id.
        config: how it is heard and translated.
        tenant: whose stream it is.
        log: its events.
        sinks: names of those to which its captions are pushed.
    """

    def __init__(
        self,
        stream_id: str,
        config: StreamConfig,
        tenant: str,
        log: EventLog,
        sinks: tuple[str, ...] = (),
    ) -> None:
        self.id = stream_id
        self.config = config
        self.tenant = tenant
        self.targets = config.targets
        self.log = log
        self.sinks = sinks
        self.transcripts: deque[events.Transcript] = deque(maxlen=KEPT_FINALS)
        self.translations: deque[events.Translation] = deque(maxlen=KEPT_FINALS)
        # Seconds of audio whose text has been published.
        self.audio_time = 0.0

    @property
    def audio_received(self) -> float:
        """Seconds of audio that arrived, as far as is known here."""
        return self.audio_time

    def finals(self, language: str) -> list[events.UtteranceText]:
        """Final texts so far in one of the targets or in the spoken language."""
        if language == self.config.source:
            return list(self.transcripts)
        return [event for event in self.translations if event.target == language]

    def cues(self, language: str) -> list[Cue]:
        """The same as subtitles."""
        return [Cue(event.start, event.end, event.stable) for event in self.finals(language) if event.stable]

    def keep(self, event: Event) -> None:
        """Keep a final text."""
        match event:
            case events.Transcript(final=True):
                self.transcripts.append(event)
            case events.Translation(final=True):
                self.translations.append(event)
