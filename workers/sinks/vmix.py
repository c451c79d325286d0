"""vMix, by its web API: the text of a title.

See vMix's user guide, *Developer API* and *Shortcut function reference*, ``SetText``.
"""

from __future__ import annotations

from http import HTTPStatus

from workers.sinks.base import Caption, RefusedError
from workers.sinks.http import HttpSink, judge, with_query


class VMix(HttpSink):
    """One text field of one title.

    Args:
        url: of vMix's web controller, such as ``http://192.168.1.20:8088``.
        input: number, name or key of the title.
        field: name of the text field in it.
    """

    clears = True

    def __init__(self, url: str, input: str, field: str) -> None:
        super().__init__()
        self._url = f"{url.rstrip('/')}/API/"
        self._input = input
        self._field = field

    async def send(self, caption: Caption) -> None:
        """Set the text."""
        url = with_query(
            self._url,
            Function="SetText",
            Input=self._input,
            SelectedName=self._field,
            Value=caption.text,
        )
        response = await self._http.exchange("GET", url)
        if response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
            # What vMix answers when it cannot carry out a function: repeating it does not help.
            raise RefusedError(f"vMix has no input {self._input!a} with a text {self._field!a}")
        judge(response)
