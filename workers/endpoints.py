"""What the server answers over plain HTTP, and who may watch which stream."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit
from weakref import WeakKeyDictionary

from pipeline.gemma.prompt import is_detected
from pipeline.text.cues import Cue, CueConfig, pop_on
from pipeline.text.hls import HlsConfig
from pipeline.text.subtitles import srt, vtt
from pipeline.text.ttml import to_ttml
from workers.access.identity import ANYONE, AccessError, Identity
from workers.access.tickets import TicketOffice
from workers.metrics import Metrics
from workers.published import Published
from workers.registry import Registry
from workers.site import Answer, Site
from workers.watching import CueViewing, LiveSubtitles, Viewing

STREAM_PATH = "/v1/stream"

TICKETS_PATH = "/v1/tickets"

_ANY_STREAM = re.compile(r"/v1/streams/([\w-]+)")
_STREAM = re.compile(r"/v1/streams/([\w-]+)")
_FILE = re.compile(r"/v1/streams/([\w-]+)\.(vtt|srt|ttml|txt)")
_TRANSCRIPT = re.compile(r"/v1/streams/([\w-]+)\.json")
_PLAYLIST = re.compile(r"/v1/streams/([\w-]+)\.m3u8")
_SEGMENT = re.compile(r"/v1/streams/([\w-]+)/(\w+)/(\d{1,9})\.vtt")
_WATCHED = re.compile(r"/v1/streams/([\w-]+)/(captions|cues)")

JSON = "application/json"
_VTT = "text/vtt; charset=utf-8"
_HLS = "application/vnd.apple.mpegurl"

# Players and pages of other origins may read what anyone may who knows the stream's id.
_SHARED = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}
_CHANGING = _SHARED | {"Cache-Control": "no-cache"}
_LASTING = _SHARED | {"Cache-Control": "public, max-age=60, immutable"}


def _ttml(said: list[Cue], config: CueConfig) -> str:
    # Transcripts whose language was detected are in no one language; XML has an empty tag for that.
    return to_ttml(pop_on(said, config), "" if is_detected(config.language) else config.language)


def _plain(said: list[Cue], config: CueConfig) -> str:
    return "".join(f"{cue.text}\n" for cue in said)


_FORMATS: Mapping[str, tuple[Callable[[list[Cue], CueConfig], str], str]] = {
    "vtt": (vtt, _VTT),
    "srt": (srt, "application/x-subrip; charset=utf-8"),
    "ttml": (_ttml, "application/ttml+xml"),
    "txt": (_plain, "text/plain; charset=utf-8"),
}


class QueryError(ValueError):
    """A query of a known path that is not accepted."""


class Endpoints:
    """Everything on the port but ``/v1/stream`` itself.

    Args:
        registry: the live streams.
        metrics: what ``/metrics`` shows.
        about: what ``/v1/info`` tells of the server.
    """

    def __init__(self, registry: Registry, metrics: Metrics, about: Mapping[str, object]) -> None:
        self._registry = registry
        self._metrics = metrics
        self._about = about
        self._site = Site()
        # Those that a player has asked for, by stream and language.
        self._live: WeakKeyDictionary[Published, dict[str, LiveSubtitles]] = WeakKeyDictionary()

    def get(
        self, path: str, *, upgrade: bool, identity: Identity = ANYONE
    ) -> Answer | Viewing | CueViewing | None:
        """Answer a ``GET`` of ``path``, query included.

        Args:
            path: target of the request.
            upgrade: whether the client asks for a WebSocket.
            identity: who asks.

        Returns:
            ``None`` for the endpoint of streams, a ``Viewing`` or ``CueViewing`` for those of viewers: these
            are WebSockets; for everything else what to answer.
        """
        url = urlsplit(path)
        query = dict(parse_qsl(url.query))
        if (named := _ANY_STREAM.match(url.path)) and not self._may_watch(named[1], identity):
            return _unknown(named[1])  # as if it were not there, so that nobody learns that it is
        watched = _WATCHED.fullmatch(url.path)
        if (watched or url.path == STREAM_PATH) and not upgrade:
            return Answer(HTTPStatus.UPGRADE_REQUIRED, f"{url.path} is a WebSocket endpoint.\n")
        try:
            if watched:
                return self._viewing(watched[1], watched[2], query)
            if url.path == STREAM_PATH:
                return None
            return self._page(url.path, query)
        except QueryError as error:
            return Answer(HTTPStatus.BAD_REQUEST, f"{error}\n")

    @staticmethod
    def stream_at(path: str) -> str | None:
        """Id of the stream that an address is about, if it is about one."""
        named = _ANY_STREAM.match(urlsplit(path).path)
        return named and named[1]

    def _may_watch(self, stream_id: str, identity: Identity) -> bool:
        stream = self._registry.get(stream_id)
        return stream is None or identity.may_watch(stream_id, stream.tenant)

    def _page(self, path: str, query: Mapping[str, str]) -> Answer:
        if found := _FILE.fullmatch(path):
            return self._file(found[1], found[2], query)
        if found := _TRANSCRIPT.fullmatch(path):
            return self._transcript(found[1])
        if found := _PLAYLIST.fullmatch(path):
            return self._playlist(found[1], query)
        if found := _SEGMENT.fullmatch(path):
            return self._segment(found[1], found[2], int(found[3]), query)
        if found := _STREAM.fullmatch(path):
            return self._describe(found[1])
        match path:
            case "/v1/info":
                return Answer(HTTPStatus.OK, _json(self._about), JSON, _CHANGING)
            case "/healthz":
                return Answer(HTTPStatus.OK, "ok\n")
            case "/readyz":
                if self._registry.ready:
                    return Answer(HTTPStatus.OK, "ready\n")
                return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "not ready: no worker of some kind is alive\n")
            case "/metrics":
                return Answer(HTTPStatus.OK, self._metrics.exposition(), "text/plain; version=1.0.0")
        return self._site.get(path, query) or Answer(
            HTTPStatus.NOT_FOUND,
            f"nothing is at {path}; try {STREAM_PATH}, /v1/streams/ID and what docs/protocol.md lists below "
            "it, /v1/info, /healthz, /readyz, /metrics\n",
        )

    def _viewing(self, stream_id: str, what: str, query: Mapping[str, str]) -> Viewing | CueViewing | Answer:
        found = self._find(stream_id, query.get("target"))
        if isinstance(found, Answer):
            return found
        stream, language = found
        if what == "captions":
            after_seq = _whole("after_seq", query.get("after_seq", "0"), 0, 1 << 53)
            return Viewing(stream, language, after_seq)
        settings = {
            name: _whole(name, query[name], low, high)
            for name, low, high in (("lines", 1, 4), ("width", 16, 100))
            if name in query
        }
        roll_up = bool(_whole("roll_up", query.get("roll_up", "0"), 0, 1))
        try:
            return CueViewing(stream, language, CueConfig(language=language, roll_up=roll_up, **settings))
        except ValueError as error:
            raise QueryError(str(error)) from None

    def _file(self, stream_id: str, form: str, query: Mapping[str, str]) -> Answer:
        found = self._find(stream_id, query.get("target"))
        if isinstance(found, Answer):
            return found
        stream, language = found
        render, content_type = _FORMATS[form]
        text = render(stream.cues(language), CueConfig(language=language))
        return Answer(HTTPStatus.OK, text, content_type, _CHANGING)

    def _transcript(self, stream_id: str) -> Answer:
        """All final text, in the form of ``surtitle translate --format json``."""
        stream = self._registry.get(stream_id)
        if stream is None:
            return _unknown(stream_id)
        translations: dict[int, dict[str, str]] = {}
        for event in stream.translations:
            translations.setdefault(event.utterance, {})[event.target] = event.stable
        utterances = [
            {
                "start": said.start,
                "end": said.end,
                "transcript": said.stable,
                "translations": translations.get(said.utterance, {}),
                "language": said.language or stream.config.source,
            }
            for said in stream.transcripts
            if said.stable
        ]
        whole = {
            "source": stream.config.source,
            "targets": stream.targets,
            "duration": stream.audio_received,
            "utterances": utterances,
        }
        return Answer(HTTPStatus.OK, _json(whole), JSON, _CHANGING)

    def _describe(self, stream_id: str) -> Answer:
        stream = self._registry.get(stream_id)
        if stream is None:
            return _unknown(stream_id)
        about = {
            "stream_id": stream.id,
            "source": stream.config.source,
            "targets": stream.targets,
            "audio_received": stream.audio_received,
            "last_seq": stream.log.last_seq,
            "ended": stream.log.closed,
        }
        return Answer(HTTPStatus.OK, _json(about), JSON, _CHANGING)

    def _playlist(self, stream_id: str, query: Mapping[str, str]) -> Answer:
        found = self._find(stream_id, query.get("target"))
        if isinstance(found, Answer):
            return found
        stream, language = found
        text = self._subtitles(stream, language).playlist(stream, _hls(stream.id, language, query))
        return Answer(HTTPStatus.OK, text, _HLS, _CHANGING)

    def _segment(self, stream_id: str, language: str, number: int, query: Mapping[str, str]) -> Answer:
        found = self._find(stream_id, language)
        if isinstance(found, Answer):
            return found
        stream, language = found
        text = self._subtitles(stream, language).segment(stream, _hls(stream.id, language, query), number)
        if text is None:
            return Answer(
                HTTPStatus.NOT_FOUND,
                f"segment {number} is not complete yet, or no longer kept\n",
                headers=_CHANGING,
            )
        return Answer(HTTPStatus.OK, text, _VTT, _LASTING)

    def _subtitles(self, stream: Published, language: str) -> LiveSubtitles:
        by_language = self._live.setdefault(stream, {})
        if language not in by_language:
            by_language[language] = LiveSubtitles(language)
        return by_language[language]

    def _find(self, stream_id: str, target: str | None) -> tuple[Published, str] | Answer:
        """A stream and one of its languages: the first target, when none is named."""
        stream = self._registry.get(stream_id)
        if stream is None:
            return _unknown(stream_id)
        languages = (*stream.targets, stream.config.source)
        language = languages[0] if target is None else target
        if language not in languages:
            return Answer(
                HTTPStatus.NOT_FOUND,
                f"stream {stream_id} has no target {language!a}; it has {', '.join(languages)}\n",
                headers=_CHANGING,
            )
        return stream, language


async def ticket(office: TicketOffice, identity: Identity, path: str) -> Answer:
    """Sell a ticket: to watch the stream that ``watch`` in the query names, or else to start one.

    Raises:
        AccessError: whoever asks may not do that himself.
    """
    query = dict(parse_qsl(urlsplit(path).query))
    sold = await office.sell(identity, query.get("watch"))
    body = _json({"ticket": sold.text, "expires": sold.expires})
    return Answer(HTTPStatus.CREATED, body, JSON, {"Cache-Control": "no-store"})


def refusal(error: AccessError) -> Answer:
    """What somebody is told who is not let in."""
    headers = {"Cache-Control": "no-store"}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return Answer(HTTPStatus(error.status), f"{error.code}: {error}\n", headers=headers)


def _unknown(stream_id: str) -> Answer:
    return Answer(HTTPStatus.NOT_FOUND, f"no stream {stream_id} is here (any more)\n", headers=_CHANGING)


def _hls(stream_id: str, language: str, query: Mapping[str, str]) -> HlsConfig:
    """Segments as the query wants them; their addresses carry its settings on."""
    seconds = _whole("seconds", query.get("seconds", "6"), 2, 60)
    mpegts = _whole("mpegts", query.get("mpegts", "0"), 0, 1 << 53)
    return HlsConfig(
        seconds=seconds,
        target=seconds,
        mpegts=mpegts,
        uri=f"{stream_id}/{language}/{{number}}.vtt?seconds={seconds}&mpegts={mpegts}",
    )


def _whole(name: str, value: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,16}", value) or not low <= int(value) <= high:
        raise QueryError(f"{name} must be a whole number from {low} to {high}, got {value[:40]!a}")
    return int(value)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
