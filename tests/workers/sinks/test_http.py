"""What an exchange comes to."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from workers.sinks import http
from workers.sinks.base import BusyError, ClosedError, RefusedError
from workers.sinks.http import Http, judge, with_query


@pytest.mark.parametrize(
    ("status", "means"),
    [
        (200, None),
        (204, None),
        (301, ClosedError),
        (400, RefusedError),
        (403, ClosedError),
        (404, ClosedError),
        (408, BusyError),
        (410, ClosedError),
        (422, RefusedError),
        (429, BusyError),
        (500, BusyError),
    ],
)
def test_statuses(status, means):
    response = httpx2.Response(status)
    if means is None:
        judge(response)
    else:
        with pytest.raises(means, match=str(status)):
            judge(response)


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("-1", 0.0)]
)
def test_a_destination_says_when_to_come_back(value, seconds):
    with pytest.raises(BusyError) as caught:
        judge(httpx2.Response(503, headers={"Retry-After": value}))

    assert caught.value.retry_after == seconds


def test_a_signed_query_is_left_as_it_is():
    assert with_query("https://a/b?sparams=id%2Cns&signature=x/y%3D", seq=1) == (
        "https://a/b?sparams=id%2Cns&signature=x/y%3D&seq=1"
    )
    assert with_query("http://a/API/", Value="¿Qué?\nÑ&=") == (
        "http://a/API/?Value=%C2%BFQu%C3%A9%3F%0A%C3%91%26%3D"
    )


async def test_requests_and_redirects(destination):
    exchanging = Http()
    response = await exchanging.exchange("POST", f"{destination.url}/a?b=c", content="é".encode())
    destination.mishaps = [(302, {"Location": f"{destination.url}/elsewhere"})]
    redirect = await exchanging.exchange("POST", destination.url)
    await exchanging.close()

    assert response.status_code == 200
    assert redirect.status_code == 302
    assert [request.path for request in destination.requests] == ["/a", "/"]
    assert destination.requests[0].body == "é".encode()


async def test_no_answer_may_be_one_later(destination, monkeypatch):
    exchanging = Http()
    destination.mishaps = ["lost"]
    with pytest.raises(BusyError):
        await exchanging.exchange("POST", destination.url)
    await exchanging.close()
    with pytest.raises(BusyError):
        await exchanging.exchange("POST", "http://127.0.0.1:9/")
    await exchanging.close()


async def test_an_answer_that_takes_too_long_is_none(monkeypatch):
    monkeypatch.setattr(http, "SECONDS", 0.05)

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    exchanging = Http()
    with pytest.raises(BusyError, match="Timeout"):
        await exchanging.exchange("GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    await exchanging.close()
    server.close()


@pytest.mark.parametrize("url", ["meeting", "ftp://a/b", "http://[::1"])
async def test_what_is_no_address(url):
    exchanging = Http()
    with pytest.raises(ClosedError):
        await exchanging.exchange("GET", url)
    await exchanging.close()
