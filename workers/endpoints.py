"""What the server answers over plain HTTP, and who may watch which stream."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qsl, urlsplit

from pipeline.text.subtitles import CueConfig, srt, vtt
from pipeline.wire import events
from pipeline.wire.events import Event
from workers.metrics import Metrics
from workers.registry import Registry
from workers.sessions import LiveStream

STREAM_PATH = "/v1/stream"

_SUBTITLES = re.compile(r"/v1/streams/([\w-]+)\.(vtt|srt)")
_CAPTIONS = re.compile(r"/v1/streams/([\w-]+)/captions")
_SUBTITLE_TYPES = {"vtt": "text/vtt; charset=utf-8", "srt": "application/x-subrip; charset=utf-8"}


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: HTTPStatus
    body: str
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Viewing:
    """What a viewer follows: the captions of one stream in one language."""

    stream: LiveStream
    language: str

    def shows(self, event: Event) -> bool:
        """Whether a viewer of this language is sent ``event``."""
        match event:
            case events.Transcript():
                return self.language == self.stream.config.source
            case events.Translation(target=target):
                return self.language == target
            case events.Error(fatal=fatal):
                return fatal
        return isinstance(event, events.Done)


class Endpoints:
    """Everything on the port but ``/v1/stream`` itself.

    Args:
        registry: the live streams.
        metrics: what ``/metrics`` shows.
    """

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._index = files("workers").joinpath("pages/index.html").read_text(encoding="utf-8")

    def get(self, path: str, *, upgrade: bool) -> Answer | Viewing | None:
        """Answer a ``GET`` of ``path``, query included.

        Args:
            path: target of the request.
            upgrade: whether the client asks for a WebSocket.

        Returns:
            ``None`` for the endpoint of streams, a ``Viewing`` for one of captions: these two are
            WebSockets; for everything else what to answer.
        """
        url = urlsplit(path)
        query = dict(parse_qsl(url.query))
        if url.path == STREAM_PATH or _CAPTIONS.fullmatch(url.path):
            if not upgrade:
                return Answer(HTTPStatus.UPGRADE_REQUIRED, f"{url.path} is a WebSocket endpoint.\n")
            return None if url.path == STREAM_PATH else self._viewing(url.path, query)
        if found := _SUBTITLES.fullmatch(url.path):
            return self._subtitles(found[1], found[2], query)
        match url.path:
            case "/":
                return Answer(HTTPStatus.OK, self._index, "text/html; charset=utf-8")
            case "/healthz":
                return Answer(HTTPStatus.OK, "ok\n")
            case "/readyz":
                if self._registry.ready:
                    return Answer(HTTPStatus.OK, "ready\n")
                return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "not ready: no worker of some kind is alive\n")
            case "/metrics":
                return Answer(HTTPStatus.OK, self._metrics.exposition(), "text/plain; version=1.0.0")
        return Answer(
            HTTPStatus.NOT_FOUND,
            f"nothing is at {url.path}; try {STREAM_PATH}, /v1/streams/ID/captions, /v1/streams/ID.vtt, "
            "/v1/streams/ID.srt, /healthz, /readyz, /metrics\n",
        )

    def _viewing(self, path: str, query: dict[str, str]) -> Viewing | Answer:
        found = _CAPTIONS.fullmatch(path)
        assert found is not None
        return self._find(found[1], query)

    def _subtitles(self, stream_id: str, form: str, query: dict[str, str]) -> Answer:
        found = self._find(stream_id, query)
        if isinstance(found, Answer):
            return found
        render = {"vtt": vtt, "srt": srt}[form]
        text = render(found.stream.cues(found.language), CueConfig(language=found.language))
        return Answer(HTTPStatus.OK, text, _SUBTITLE_TYPES[form])

    def _find(self, stream_id: str, query: dict[str, str]) -> Viewing | Answer:
        stream = self._registry.get(stream_id)
        if stream is None:
            return Answer(HTTPStatus.NOT_FOUND, f"no stream {stream_id} is here (any more)\n")
        languages = (*stream.targets, stream.config.source)
        language = query.get("target", languages[0])
        if language not in languages:
            return Answer(
                HTTPStatus.NOT_FOUND,
                f"stream {stream_id} has no target {language!a}; it has {', '.join(languages)}\n",
            )
        return Viewing(stream, language)
