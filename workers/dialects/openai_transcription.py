"""OpenAI's Realtime transcription sessions, ``/v1/realtime?intent=transcription``.

The GA form of events is spoken, and the one before it with clients that ask for it: by the header
``OpenAI-Beta: realtime=v1`` or by sending ``transcription_session.update``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.config import AudioFormat
from pipeline.errors import ProtocolError
from pipeline.glossary import check_glossary
from pipeline.wire import commands, events
from pipeline.wire.events import Event
from workers.dialects.base import Reply, Step, Transcript
from workers.dialects.openai_realtime import PCM, RealtimeDialect, section, source_in

FORMATS: Mapping[str, tuple[str, AudioFormat]] = {
    "audio/pcm": ("pcm16", PCM),
    "audio/pcmu": ("g711_ulaw", AudioFormat("mulaw", 8_000)),
    "audio/pcma": ("g711_alaw", AudioFormat("alaw", 8_000)),
}
"""Formats of the audio by their GA names, with the names of before."""

COMMIT_SECONDS = 0.1
"""Least audio that can be committed."""

SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
"""What the client is told of our voice gate, in OpenAI's words and with OpenAI's defaults: it has its own."""


class TranscriptionSession(RealtimeDialect):
    """One session.

    With turn detection an utterance is an item, and is committed when the voice gate says that it has ended.
    Without, an item is what was said between two commits: an item's transcript is complete when the ``mark``
    that follows its audio through the stream comes back.

    Args:
        query: of the address.
        languages: codes of those that the model was made for.
        beta: whether the client speaks as before GA.
    """

    def __init__(self, query: Mapping[str, str], languages: Sequence[str] = (), *, beta: bool) -> None:
        super().__init__(query, languages)
        self._beta = beta
        self._format = "audio/pcm"
        named = self._source if "source" in query else None
        self._transcription: dict[str, Any] = {"model": self._model, "language": named}
        self._turn_detection: dict[str, Any] | None = SERVER_VAD
        self._keywords: tuple[str, ...] = ()
        # Bytes of audio since the last commit.
        self._uncommitted = 0
        self._last_item: str | None = None
        # Without turn detection: how many items were begun by the client, what ends those that have not come
        # back, and the one that the stream is at.
        self._opened = 0
        self._ends: deque[str] = deque()
        self._heard = _Item("item_0", self._source)

    def greet(self) -> Iterable[str]:
        """The session with its defaults."""
        return (self._session_event("created"),)

    def _take(self, kind: str, given: dict[str, Any]) -> Sequence[Step]:
        match kind:
            case "session.update":
                return self._update(_settings(section(given, "session")))
            case "transcription_session.update":
                self._beta = True
                return self._update(_settings_before(section(given, "session")))
            case "input_audio_buffer.append":
                steps = self._append(given)
                self._uncommitted += len(steps[-1]) if isinstance(steps[-1], bytes) else 0
                return steps
            case "input_audio_buffer.commit":
                return self._commit()
            case "input_audio_buffer.clear":
                return self._clear()
        raise ProtocolError(
            f"unknown event type {kind[:60]!a}; accepted in a transcription session are session.update, "
            "input_audio_buffer.append, input_audio_buffer.commit and input_audio_buffer.clear",
            code="unknown_type",
        )

    def _update(self, settings: Mapping[str, Any]) -> Sequence[Step]:
        form = settings.get("format", self._format)
        transcription = self._transcription | settings.get("transcription", {})
        language, keywords = source_in(transcription) or self._unnamed, _keywords_in(transcription)
        detection = settings.get("turn_detection", self._turn_detection)
        wanted = (form, language, detection is None)
        if self._started and wanted != (self._format, self._source, self._turn_detection is None):
            raise ProtocolError(
                "format, language and turn detection are settled once audio has come; open another session"
            )
        self._transcription, self._turn_detection = transcription, detection
        if not self._started:
            self._format, self._source, self._audio = form, language, FORMATS[form][1]
            self._heard = _Item(self._heard.id, language)
        changed = [commands.Update(glossary=keywords)] if self._started and keywords != self._keywords else []
        self._keywords = keywords
        return [*changed, Reply(self._session_event("updated"))]

    def _start(self) -> commands.Start:
        return commands.Start(source=self._source, targets=(), audio=self._audio, glossary=self._keywords)

    def _commit(self) -> Sequence[Step]:
        seconds = self._uncommitted / self._audio.bytes_per_frame / self._audio.sample_rate
        if seconds < COMMIT_SECONDS:
            raise ProtocolError(
                f"buffer too small: a commit needs at least {COMMIT_SECONDS * 1000:g} ms of audio, "
                f"the buffer has {seconds * 1000:.2f} ms",
                code="input_audio_buffer_commit_empty",
            )
        self._uncommitted = 0
        if self._turn_detection is not None:
            return [commands.Flush()]
        told = self._committed(f"item_{self._opened}")
        return [*self._end("commit"), *map(Reply, told)]

    def _clear(self) -> Sequence[Step]:
        self._uncommitted = 0
        cleared = self._reply("input_audio_buffer.cleared")
        if not self._started:
            return [cleared]
        return [*([commands.Flush()] if self._turn_detection is not None else self._end("clear")), cleared]

    def _end(self, why: str) -> list[Step]:
        """End the item that takes the client's audio; the mark tells when the stream has come so far."""
        self._opened += 1
        self._ends.append(why)
        return [commands.Flush(), commands.Mark(f"item_{self._opened}")]

    def _tell(self, event: Event) -> Iterable[str]:
        if self._turn_detection is not None:
            return self._tell_turn(event)
        match event:
            case events.Transcript():
                return self._delta(event)
            case events.Mark(id=following):
                item, self._heard = self._heard, _Item(following, self._source)
                return [self._completed(item)] if self._ends.popleft() == "commit" else ()
        return ()

    def _tell_turn(self, event: Event) -> Iterable[str]:
        match event:
            case events.SpeechStart(utterance=utterance, time=began):
                self._heard = _Item(f"item_{utterance}", self._source)
                return [self._speech("started", audio_start_ms=round(began * 1000))]
            case events.SpeechEnd(time=ended):
                stopped = self._speech("stopped", audio_end_ms=round(ended * 1000))
                return [stopped, *self._committed(self._heard.id)]
            case events.Transcript(final=final):
                return self._delta(event) + ([self._completed(self._heard)] if final else [])
        return ()

    def _speech(self, what: str, **times: int) -> str:
        return self._message(f"input_audio_buffer.speech_{what}", **times, item_id=self._heard.id)

    def _committed(self, item: str) -> list[str]:
        """The buffer has become an item."""
        previous, self._last_item = self._last_item, item
        told = [self._message("input_audio_buffer.committed", item_id=item, previous_item_id=previous)]
        content = [{"type": "input_audio", "transcript": None}]
        described = {"id": item, "type": "message", "role": "user", "status": "completed", "content": content}
        if not self._beta:
            described["object"] = "realtime.item"
        for stage in ("created",) if self._beta else ("added", "done"):
            kind = f"conversation.item.{stage}"
            told.append(self._message(kind, item=described, previous_item_id=previous))
        return told

    def _delta(self, event: events.Transcript) -> list[str]:
        delta = self._heard.add(event)
        if not delta:
            return []
        kind = "conversation.item.input_audio_transcription.delta"
        return [self._message(kind, item_id=self._heard.id, content_index=0, delta=delta)]

    def _completed(self, item: _Item) -> str:
        return self._message(
            "conversation.item.input_audio_transcription.completed",
            item_id=item.id,
            content_index=0,
            transcript=item.text,
            usage={"type": "duration", "seconds": round(item.seconds, 3)},
        )

    def _session_event(self, what: str) -> str:
        session: dict[str, Any] = {"id": self._session, "object": "realtime.transcription_session"}
        if self._beta:
            session |= {
                "input_audio_format": FORMATS[self._format][0],
                "input_audio_transcription": self._transcription,
                "input_audio_noise_reduction": None,
                "turn_detection": self._turn_detection,
            }
            return self._message(f"transcription_session.{what}", session=session)
        form = {"type": self._format} | ({"rate": PCM.sample_rate} if self._format == "audio/pcm" else {})
        heard = {
            "format": form,
            "transcription": self._transcription,
            "noise_reduction": None,
            "turn_detection": self._turn_detection,
        }
        session |= {"type": "transcription", "audio": {"input": heard}, "include": None}
        return self._message(f"session.{what}", session=session)


class _Item:
    """What was said in one item.

    Args:
        name: the item's id.
        language: that is spoken.
    """

    def __init__(self, name: str, language: str) -> None:
        self.id = name
        self.text = ""
        # Seconds of speech in it.
        self.seconds = 0.0
        self._transcript = Transcript(language)

    def add(self, event: events.Transcript) -> str:
        """What the event adds to the text."""
        added = self._transcript.add(event)
        self.text += added
        if event.final:
            self.seconds += event.end - event.start
        return added


def _settings(session: Mapping[str, Any]) -> dict[str, Any]:
    """What an update in GA form sets: ``format``, ``transcription``, ``turn_detection``."""
    kind = session.get("type", "transcription")
    if kind != "transcription":
        raise ProtocolError(f"session.type must be 'transcription' here, got {str(kind)[:60]!a}")
    given = section(session, "audio", "input")
    settings = _common(given, section(given, "transcription"))
    if form := section(given, "format"):
        settings["format"] = _chosen("format.type", form.get("type"), {name: name for name in FORMATS})
        if settings["format"] == "audio/pcm" and form.get("rate", PCM.sample_rate) != PCM.sample_rate:
            raise ProtocolError(f"format.rate must be {PCM.sample_rate} with audio/pcm")
    return settings


def _settings_before(session: Mapping[str, Any]) -> dict[str, Any]:
    """The same in the form before GA."""
    settings = _common(session, section(session, "input_audio_transcription"))
    if (form := session.get("input_audio_format")) is not None:
        names = {before: now for now, (before, _) in FORMATS.items()}
        settings["format"] = _chosen("input_audio_format", form, names)
    return settings


def _keywords_in(transcription: Mapping[str, Any]) -> tuple[str, ...]:
    """The glossary that ``keywords`` are: names that are spelled so in every language."""
    keywords = transcription.get("keywords") or []
    if not isinstance(keywords, list) or not all(isinstance(each, str) for each in keywords):
        raise ProtocolError("keywords must be a list of words or phrases")
    try:
        check_glossary(keywords)
    except ValueError as error:
        raise ProtocolError(f"keywords: {error}") from None
    return tuple(keywords)


def _chosen(name: str, value: object, choices: Mapping[str, str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ProtocolError(f"{name} must be one of {', '.join(choices)}")
    return choices[value]


def _common(given: Mapping[str, Any], transcription: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"transcription": transcription}
    if "turn_detection" in given:
        settings["turn_detection"] = section(given, "turn_detection") or None
    return settings
