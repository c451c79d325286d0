"""What viewers of a stream follow: its captions as they come, or as cues at a pace that can be read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from pipeline.text.cues import Cue, CueConfig
from pipeline.text.hls import HlsConfig, complete_segments, playlist, segment
from pipeline.text.pacer import Pacer
from pipeline.wire import events
from pipeline.wire.events import Event, UtteranceText, encode
from workers.published import Published

REPLAYED_SECONDS = 60.0
"""Text this old is paced again for a new viewer: enough to find out what stands on everyone's screen."""

KEPT_SECONDS = 600.0
"""How long cues are kept for players of HTTP Live Streaming."""


@dataclass(frozen=True)
class Viewing:
    """What a viewer follows: the captions of one stream in one language.

    Args:
        stream: that is watched.
        language: one of its targets, or the spoken one.
        after_seq: number of the last event that the viewer has.
    """

    stream: Published
    language: str
    after_seq: int = 0

    def shows(self, event: Event) -> bool:
        """Whether a viewer of this language is sent ``event``."""
        if isinstance(event, events.Error):
            return event.fatal
        return isinstance(event, events.Done) or _is_text(event, self.stream, self.language)

    def missed(self) -> list[str]:
        """Messages with the final text after ``after_seq`` that is no longer in the stream's log."""
        return [
            encode(event)
            for event in self.stream.finals(self.language)
            if self.after_seq < event.seq < self.stream.log.first_seq
        ]

    @property
    def follows_from(self) -> int:
        """Number of the event behind which the log is to be followed after :meth:`missed`."""
        return max(self.after_seq, self.stream.log.first_seq - 1)


@dataclass(frozen=True)
class CueViewing:
    """Cues of one stream in one language, for a screen that shows them when they are due.

    Args:
        stream: that is watched.
        language: one of its targets, the spoken one, or one of those that may be spoken.
        config: what the cues obey.
    """

    stream: Published
    language: str
    config: CueConfig

    async def messages(self, clock: Callable[[], float]) -> AsyncIterator[str]:
        """Messages with a cue each that is not over yet; as :meth:`cues`."""
        async for cue in self.cues(clock):
            if cue.end > clock():
                yield _message(cue, clock())

    async def cues(self, clock: Callable[[], float]) -> AsyncIterator[Cue]:
        """Cues, as soon as their place is known, to the end of the stream.

        Args:
            clock: Unix time in seconds, the same that stamps the stream's events.
        """
        paced = PacedText(self.config)
        log, seq = self.stream.log, 0
        while True:
            closed = log.closed
            cues: list[Cue] = []
            for entry in log.kept(seq):
                event = entry.event
                seq = event.seq
                if event.server_time > clock() - REPLAYED_SECONDS and _is_text(
                    event, self.stream, self.language
                ):
                    assert isinstance(event, UtteranceText)
                    cues += paced.take(event, event.server_time)
            cues += paced.advance(clock())
            for cue in cues:
                yield cue
            if closed:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(None if paced.due is None else max(0.0, paced.due - clock())):
                    await log.grown(seq)


class LiveSubtitles:
    """Cues of one stream in one language on its audio's timeline, for HTTP Live Streaming.

    Nothing runs in between: each question first catches up with the stream, and what then comes out does not
    depend on when it was asked. The stream is told with each question, and not kept alive from here.

    Args:
        language: one of the stream's targets, or the spoken one.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._paced = PacedText(CueConfig(language=language))
        self._seq = 0
        self._cues: list[Cue] = []

    def playlist(self, stream: Published, config: HlsConfig) -> str:
        """The media playlist as of now."""
        return playlist(config, self._catch_up(stream), ended=stream.log.closed)

    def segment(self, stream: Published, config: HlsConfig, number: int) -> str | None:
        """A media segment; None when it is not complete yet, or no longer kept."""
        settled = self._catch_up(stream)
        complete = number < complete_segments(config, settled, ended=stream.log.closed)
        if not complete or (number + 1) * config.seconds < settled - KEPT_SECONDS:
            return None
        return segment(config, self._cues, number)

    def _catch_up(self, stream: Published) -> float:
        """Pace what has come since; returns the second up to which nothing more will come."""
        for entry in stream.log.kept(self._seq):
            self._seq = entry.event.seq
            if _is_text(entry.event, stream, self._language):
                assert isinstance(entry.event, UtteranceText)
                self._cues += self._paced.take(entry.event, entry.event.audio_time)
        self._cues += self._paced.advance(stream.audio_time)
        settled = self._paced.now
        # A segment may be a minute long and has to have all its cues for as long as it is kept.
        self._cues = [cue for cue in self._cues if cue.end > settled - KEPT_SECONDS - 60]
        if not stream.log.closed:
            return settled
        return max([settled, *(cue.end for cue in self._cues[-1:])])


class PacedText:
    """One language of a stream through a :class:`~pipeline.text.pacer.Pacer`, on the caller's clock.

    Args:
        config: what the cues obey.
    """

    def __init__(self, config: CueConfig) -> None:
        self._pacer = Pacer(config)
        # The latest time that was told.
        self.now = 0.0
        # Number of the utterance that is spoken or comes next, and its stable text so far.
        self._utterance = 0
        self._stable = ""

    @property
    def due(self) -> float | None:
        """When :meth:`advance` will have something to show; None while nothing waits."""
        return self._pacer.due

    def take(self, text: UtteranceText, now: float) -> list[Cue]:
        """Take the next text of the stream at ``now``; a time before an earlier one counts as that one.

        The final text of an utterance may be missing: where events were lost, the next one goes on.
        """
        cues = self.advance(now)
        if text.utterance < self._utterance:
            return cues
        if text.utterance > self._utterance:
            cues += self._pacer.push(self._stable, self.now, final=True)
        cues += self._pacer.push(text.stable, self.now, final=text.final)
        self._utterance, self._stable = (
            (text.utterance + 1, "") if text.final else (text.utterance, text.stable)
        )
        return cues

    def advance(self, now: float) -> list[Cue]:
        """Let time pass to ``now``, showing everything when it is due."""
        cues: list[Cue] = []
        self.now = max(self.now, now)
        while (due := self._pacer.due) is not None and due <= self.now:
            cues += self._pacer.advance(due)
        return cues


def _is_text(event: Event, stream: Published, language: str) -> bool:
    """Whether an event is a text in that language."""
    match event:
        case events.Transcript(language=spoken):
            # Where it is a target, its translation repeats the transcript.
            return language == stream.config.source or (language == spoken and language not in stream.targets)
        case events.Translation(target=target):
            return language == target
    return False


def _message(cue: Cue, now: float) -> str:
    """A cue for the screen; times are Unix time in seconds, and it is ``server_time`` when it leaves."""
    return json.dumps(
        {"type": "cue", "server_time": now, "start": cue.start, "end": cue.end, "lines": cue.lines},
        ensure_ascii=False,
    )
