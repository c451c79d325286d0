"""HTTP for sinks: one exchange, and what its outcome means for a caption."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from workers.sinks.base import BusyError, ClosedError, RefusedError, Sink

SECONDS = 5.0
"""How long an exchange may take before it counts as failed."""

PLAIN_TEXT = {"Content-Type": "text/plain; charset=utf-8"}

_BUSY = frozenset((408, 425, 429))
_CLOSED = frozenset((401, 403, 404, 405, 410))


class Http:
    """A client for one destination, with its connections kept open. Redirects are not followed."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None

    async def exchange(
        self, method: str, url: str, *, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """Send a request; returns the response, whatever its status.

        Raises:
            BusyError: there was none.
            ClosedError: the address is none.
        """
        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=SECONDS, follow_redirects=False)
        try:
            return await self._client.request(method, url, content=content, headers=dict(headers or {}))
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise ClosedError(f"the address cannot be used ({error})") from None
        except httpx2.TransportError as error:
            raise BusyError(f"no answer ({type(error).__name__})") from None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


class HttpSink(Sink):
    """A sink that is reached by HTTP."""

    def __init__(self) -> None:
        self._http = Http()

    async def close(self) -> None:
        """See :meth:`Sink.close`."""
        await self._http.close()


def judge(response: httpx2.Response) -> None:
    """Raise what a response without success means, by RFC 9110.

    Raises:
        BusyError: 408, 425, 429 and 5xx: the same request may succeed later.
        ClosedError: 401, 403, 404, 405, 410 and redirects: none will.
        RefusedError: other 4xx.
    """
    status = response.status_code
    if 200 <= status < 300:
        return
    told = f"status {status}"
    if status >= 500 or status in _BUSY:
        raise BusyError(told, _retry_after(response))
    if status in _CLOSED or status < 400:
        raise ClosedError(told)
    raise RefusedError(told)


def with_query(url: str, **values: str | int) -> str:
    """The address with further values in its query; what stands there is left as it is, for it is signed."""
    return f"{url}{'&' if '?' in url else '?'}{httpx2.QueryParams(values)}"


def _retry_after(response: httpx2.Response) -> float:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0.0
