"""What the client of a stream has been told, so that nothing is told twice when its audio is heard again."""

from __future__ import annotations

from pipeline.wire import events
from pipeline.wire.events import Event, UtteranceText


class Told:
    """Keeps account of a stream's events.

    After the death of a gateway another one hears audio again whose text the client has, in part. What it
    makes of it is the same, but for the moments at which hypotheses are made; so it is enough to leave out
    what was told before, and to have stable text be kept (``shown``).
    """

    def __init__(self) -> None:
        # Final transcripts, which is the number of the utterance that has none yet.
        self.utterances = 0
        # Stable text of that utterance: by target, and the transcript's as "".
        self.shown: dict[str, str] = {}
        # The language that was detected in it; empty for none.
        self.language = ""
        # The newest utterances that were said to start and to end.
        self._started = self._ended = -1
        # By target: the newest utterance with a final text, and the newest partial text.
        self._final: dict[str, int] = {}
        self._partial: dict[str, UtteranceText] = {}
        self._acknowledged = 0.0

    def is_news(self, event: Event) -> bool:
        """Whether an event of the decoder has not been told before."""
        match event:
            case events.SpeechStart(utterance=utterance):
                return utterance > self._started
            case events.SpeechEnd(utterance=utterance):
                return utterance > self._ended
            case UtteranceText():
                target = _target(event)
                if event.utterance <= self._final.get(target, -1):
                    return False
                before = self._partial.get(target)
                return (
                    event.final
                    or before is None
                    or event.utterance > before.utterance
                    or (event.audio_time >= before.audio_time and event.stable.startswith(before.stable))
                )
            case events.Ack(audio_time=audio_time):
                return audio_time > self._acknowledged
        return True

    def note(self, event: Event) -> None:
        """Take note of an event that is told now, or was told by another gateway."""
        match event:
            case events.SpeechStart(utterance=utterance):
                self._started = max(self._started, utterance)
            case events.SpeechEnd(utterance=utterance):
                self._ended = max(self._ended, utterance)
            case events.Ack(audio_time=audio_time):
                self._acknowledged = audio_time
            case UtteranceText():
                target = _target(event)
                if not event.final:
                    self._partial[target] = event
                    self.shown[target] = event.stable
                    if isinstance(event, events.Transcript):
                        self.language = event.language or ""
                    return
                self._final[target] = event.utterance
                if isinstance(event, events.Transcript):
                    self.utterances = event.utterance + 1
                    self.shown.clear()
                    self.language = ""


def _target(event: UtteranceText) -> str:
    return event.target if isinstance(event, events.Translation) else ""
