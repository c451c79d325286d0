"""What both kinds of OpenAI Realtime sessions have in common: JSON events, base64 audio, errors.

Written to the types of the ``openai`` package (``openai.types.realtime``), which are made from OpenAI's
specification. No key is asked for; that is for whoever stands in front of the server.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.config import AudioFormat
from pipeline.errors import ProtocolError
from pipeline.gemma.prompt import AUTO
from pipeline.wire import commands, events
from pipeline.wire.events import Event
from workers.dialects.base import Dialect, Reply, Step, parsed, primary

PCM = AudioFormat("pcm_s16le", 24_000)
"""``pcm16`` in OpenAI's words: 24 kHz, one channel."""

_OURS = frozenset(
    ("internal", "worker_lost", "out_of_memory", "shutting_down", "at_capacity", "untranslated")
)


class RealtimeDialect(Dialect):
    """A session of OpenAI's Realtime API over a WebSocket.

    Args:
        query: of the address; ``source`` is the language that is spoken, or several with commas between them,
            for OpenAI has no field for it in translation sessions, and ``model`` is repeated to the client.
        languages: codes of those that the model was made for; what is spoken is detected among several of
            them where nobody names it.
    """

    def __init__(self, query: Mapping[str, str], languages: Sequence[str] = ()) -> None:
        self._session = "sess_" + secrets.token_urlsafe(12)
        self._model = query.get("model", "surtitle")
        # The language that is spoken, and what it is where the client names none.
        self._source = self._unnamed = _spoken(query["source"]) if "source" in query else _any_of(languages)
        self._audio = PCM
        self._events = 0
        # Whether the stream has been started, and with it language and format are settled.
        self._started = False

    def receive(self, message: str | bytes) -> Sequence[Step]:
        """A message that is not accepted is answered with an ``error`` event; the session goes on."""
        given: dict[str, Any] = {}
        try:
            given = _parsed(message)
            return self._take(str(given.get("type")), given)
        except ProtocolError as error:
            return [self._error(str(error), error.code, event_id=given.get("event_id"))]

    @abstractmethod
    def _take(self, kind: str, given: dict[str, Any]) -> Sequence[Step]:
        """Carry out a client event of type ``kind``."""

    @abstractmethod
    def _start(self) -> commands.Start:
        """The command that the first audio is preceded by."""

    def _append(self, given: Mapping[str, Any]) -> list[Step]:
        """Audio, behind the start of the stream if it is the first."""
        audio = given.get("audio")
        if not isinstance(audio, str):
            raise ProtocolError("audio must be a base64 string")
        try:
            data = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise ProtocolError("audio must be base64, as in RFC 4648, section 4") from None
        return [*self._begin(), data]

    def _begin(self) -> list[Step]:
        if self._started:
            return []
        self._started = True
        return [self._start()]

    def render(self, event: Event) -> Iterable[str]:
        """Errors are the same in every kind of session; the rest is the session's own."""
        if isinstance(event, events.Error):
            return (self._error(event.message, event.code).text,)
        return self._tell(event)

    @abstractmethod
    def _tell(self, event: Event) -> Iterable[str]:
        """Messages for an event that is no error."""

    def _message(self, kind: str, **fields: Any) -> str:
        self._events += 1
        return json.dumps({"type": kind, "event_id": f"event_{self._events}", **fields}, ensure_ascii=False)

    def _reply(self, kind: str, **fields: Any) -> Reply:
        return Reply(self._message(kind, **fields))

    def _error(self, message: str, code: str, *, event_id: object = None) -> Reply:
        kind = "server_error" if code in _OURS else "invalid_request_error"
        error = {"type": kind, "code": code, "message": message, "param": None, "event_id": event_id}
        return self._reply("error", error=error)


def _parsed(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise ProtocolError("events are text; audio goes into them as base64")
    return parsed(message, "event")


def section(given: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """The object at ``path``; what is missing or null on the way is an empty one.

    Raises:
        ProtocolError: something on the way is no object.
    """
    found: Any = given
    for index, name in enumerate(path):
        found = found.get(name)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise ProtocolError(f"{'.'.join(path[: index + 1])} must be an object")
    return dict(found)


def language_in(given: Mapping[str, Any], name: str) -> str | None:
    """The language that a field of ``given`` names, if it is there.

    Raises:
        ProtocolError: it is no text.
    """
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ProtocolError(f"{name} must be a language code such as 'en'")
    return primary(value)


def source_in(given: Mapping[str, Any]) -> str | None:
    """The language that ``language`` names, or those that ``languages`` does, as ``start`` has them.

    Raises:
        ProtocolError: one is no text, or the other no list of texts.
    """
    if language_in(given, "language") is not None:
        return _spoken(given["language"])
    several = given.get("languages") or []
    if not isinstance(several, list) or not all(isinstance(each, str) and each for each in several):
        raise ProtocolError("languages must be a list of language codes such as 'en'")
    return _spoken(",".join(several)) or None


def _spoken(locales: str) -> str:
    """``es,en`` of ``es-ES,en-US``."""
    return ",".join(dict.fromkeys(map(primary, locales.split(","))))


def _any_of(languages: Sequence[str]) -> str:
    return AUTO if len(languages) > 1 else next(iter(languages), commands.Start.source)
