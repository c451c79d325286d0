"""YouTube Live, by the HTTP caption ingestion URL of a stream ("POST captions to URL").

A ``POST`` has a sequence number, one higher with each caption and the same when it is repeated, and a body of
a line with the caption's UTC time and a line with its text. See YouTube's *Delivering live closed captions by
HTTP POST*.
"""

from __future__ import annotations

from datetime import UTC, datetime

from workers.sinks.base import Caption
from workers.sinks.http import PLAIN_TEXT, HttpSink, judge, with_query


class YouTube(HttpSink):
    """The captions of one live stream.

    YouTube lays captions over the picture by their time, so this server's clock has to be right; how late the
    video is does not matter.

    Args:
        url: the ingestion URL, with its ``cid``.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._seq = 0
        self._caption: tuple[str, int] | None = None

    async def send(self, caption: Caption) -> None:
        """Post a caption."""
        if self._caption != (caption.stream, caption.number):
            self._caption = (caption.stream, caption.number)
            self._seq += 1
        time = datetime.fromtimestamp(caption.start, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        text = caption.text.replace("\n", "<br>")
        response = await self._http.exchange(
            "POST",
            with_query(self._url, seq=self._seq),
            content=f"{time}\n{text}\n".encode(),
            headers=PLAIN_TEXT,
        )
        judge(response)
