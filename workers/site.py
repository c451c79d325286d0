"""The pages: files that come with the package, the headers they are sent with, and QR codes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.resources import files
from pathlib import PurePosixPath

import segno

HTML = "text/html; charset=utf-8"
_TYPES = {
    ".html": HTML,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""Content Security Policy: nothing from elsewhere and nothing inline."""

_HEADERS = {
    "Cache-Control": "no-cache",  # or a browser would keep pages of an older server
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",  # the address of a stream is all that it takes to watch it
    "X-Content-Type-Options": "nosniff",
}
_NOT_FRAMED = _HEADERS | {"Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'"}

_WATCH = re.compile(r"/(watch|overlay)/[\w-]+")
_LINK = re.compile(r"https?://[!-~]{1,500}")


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: HTTPStatus
    body: str
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


class Site:
    """Answers for the paths of pages and of what pages are made of."""

    def __init__(self) -> None:
        folder = files("workers").joinpath("pages")
        self._files = {
            item.name: item.read_text(encoding="utf-8") for item in folder.iterdir() if item.is_file()
        }

    def get(self, path: str, query: Mapping[str, str]) -> Answer | None:
        """Answer a ``GET`` of ``path``; None where no page is."""
        if path == "/":
            return self._file("operator.html", _NOT_FRAMED)
        if found := _WATCH.fullmatch(path):
            # Also for streams that are not here (any more): the page says so better than a 404.
            return self._file(f"{found[1]}.html", _HEADERS)
        if path == "/qr.svg":
            return _qr(query.get("link", ""))
        folder, _, name = path.rpartition("/")
        return self._file(name, _HEADERS) if folder == "/pages" and name in self._files else None

    def _file(self, name: str, headers: Mapping[str, str]) -> Answer:
        return Answer(HTTPStatus.OK, self._files[name], _TYPES[PurePosixPath(name).suffix], headers)


def _qr(link: str) -> Answer:
    """A link as a QR code (ISO/IEC 18004) with the quiet zone that readers need."""
    if not _LINK.fullmatch(link):
        return Answer(
            HTTPStatus.BAD_REQUEST, "link must be an http or https address of at most 500 letters\n"
        )
    image = io.BytesIO()
    segno.make(link, micro=False, error="m").save(
        image, kind="svg", border=4, dark="#000", light="#fff", xmldecl=False, omitsize=True
    )
    return Answer(HTTPStatus.OK, image.getvalue().decode(), _TYPES[".svg"], _HEADERS)
