"""One stream from audio bytes to events, in one process: the path that everything is compared with.

audio bytes -> :class:`~pipeline.speech.SpeechEncoder` -> soft tokens of utterances ->
:class:`~pipeline.translation.SpeechTranslator` -> transcripts, translations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.config import AudioFormat, StreamConfig
from pipeline.model import Gemma3n
from pipeline.speech import SpeechEncoder, SpeechEvent
from pipeline.translation import SpeechTranslator
from pipeline.wire.events import Done, Event, Sequencer, Transcript


class Stream:
    """Translates speech while it is spoken.

    Args:
        model: may be shared by any number of streams.
        source: ISO 639-1 code of the spoken language; several with commas between them, or ``auto`` for all
            that the model knows, to have it detected for each utterance.
        targets: codes of the languages to translate into, at least one.
        audio: format of the bytes; 16 kHz, 16 bit, mono by default.
        config: further settings; its languages and format are replaced by the other arguments.

    Raises:
        LanguageError: the model does not know one of the languages.
        UnsupportedError: there is a context, and the model was not made for one.
        ValueError: there is no target.
    """

    def __init__(
        self,
        model: Gemma3n,
        source: str,
        targets: Sequence[str],
        audio: AudioFormat | None = None,
        config: StreamConfig | None = None,
    ) -> None:
        if not targets:
            raise ValueError("a stream needs at least one target language")
        self._model = model
        self._config = replace(
            config or StreamConfig(), source=source, targets=tuple(targets), audio=audio or AudioFormat()
        )
        self.reset()

    def reset(self) -> None:
        """Forget everything: the stream is as new."""
        self._encoder = SpeechEncoder(self._model, self._config)
        self._translator = SpeechTranslator(self._model, self._config)
        self._sequencer = Sequencer("")
        self._utterances = 0

    def feed(self, data: bytes) -> list[Event]:
        """Take audio bytes, any number of them, cut anywhere.

        Returns:
            The events that came of them, numbered from 1 on. Times are seconds of the stream's audio;
            ``server_time`` is 0, for nothing here reads a clock.

        Raises:
            AudioError: float samples that are not audio.
        """
        return self._translate(self._encoder.push(data))

    def close(self) -> list[Event]:
        """End the audio; returns the remaining events, ``done`` at last. The stream is then as new."""
        events = self._translate(self._encoder.flush())
        done = Done(
            audio_seconds=self._encoder.audio_time,
            utterances=self._utterances,
            audio_time=self._encoder.audio_time,
        )
        events.append(self._sequencer.stamp(done))
        self.reset()
        return events

    def _translate(self, speech: Sequence[SpeechEvent]) -> list[Event]:
        events = [self._sequencer.stamp(event) for heard in speech for event in self._translator.push(heard)]
        self._utterances += sum(isinstance(event, Transcript) and event.final for event in events)
        return events
