"""Zoom meetings and webinars, by their closed-caption URL ("Copy the API token" in the meeting).

Every caption is a ``POST`` of its text with a sequence number one higher than the last; a repeated attempt
keeps its number. ``GET`` of ``/closedcaption/seq`` tells the last number, by which the count goes on after a
break. See Zoom's *Integrating a third-party closed captioning service*.
"""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from workers.sinks.base import BusyError, Caption, ClosedError, RefusedError
from workers.sinks.http import PLAIN_TEXT, HttpSink, judge, with_query


class Zoom(HttpSink):
    """The captions of one meeting; they have one language.

    Args:
        url: that Zoom shows to the host, signature included; it is good for one meeting.
        locale: what Zoom is told of the language, such as ``en-US``.
    """

    def __init__(self, url: str, locale: str) -> None:
        super().__init__()
        self._url = url
        self._locale = locale
        # The number of the last caption that Zoom took; None when it has to be asked.
        self._last: int | None = None
        # The caption that is being delivered, its number at Zoom, and whether Zoom may have it although it
        # did not say so.
        self._caption: tuple[str, int] | None = None
        self._seq = 0
        self._unsure = False

    async def send(self, caption: Caption) -> None:
        """Post a caption."""
        if self._caption != (caption.stream, caption.number):
            if self._last is None or self._unsure:
                self._last = await self._ask()
            self._caption, self._seq, self._unsure = (caption.stream, caption.number), self._last + 1, False
        await self._post(caption.text)
        self._last, self._unsure = self._seq, False

    async def _post(self, text: str) -> None:
        url = with_query(self._url, seq=self._seq, lang=self._locale)
        again, self._unsure = self._unsure, True
        response = await self._http.exchange("POST", url, content=text.encode(), headers=PLAIN_TEXT)
        if response.status_code == HTTPStatus.BAD_REQUEST:
            self._unsure = False
            raise RefusedError("the meeting has not begun")
        if response.status_code == HTTPStatus.FORBIDDEN:
            # Either the signature is wrong or expired, and asking fails, too; or the number is.
            last = await self._ask()
            if again and last == self._seq:
                return  # the attempt before had arrived
            if last == self._seq - 1:
                raise ClosedError("status 403: the URL is not accepted")
            self._seq = last + 1
            raise BusyError(f"the sequence number was to be {last + 1}")
        judge(response)

    async def _ask(self) -> int:
        """The number of the last caption that Zoom has."""
        parts = urlsplit(self._url)
        response = await self._http.exchange("GET", parts._replace(path=f"{parts.path}/seq").geturl())
        judge(response)
        told = response.text.strip()
        if not (told.isascii() and told.isdigit() and len(told) < 12):
            raise BusyError("the last sequence number is not told")
        return int(told)
