"""YouTube's ingestion of captions by HTTP POST: numbers, UTC times, one text line each."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

import pytest

from tests.workers.sinks.conftest import Destination, caption
from workers.sinks.base import BusyError, ClosedError
from workers.sinks.youtube import YouTube


class Ingestion(Destination):
    """Refuses bodies and orders that YouTube refuses."""

    def __init__(self):
        super().__init__()
        self.captions = []

    def answer(self, request):
        if request.method != "POST" or request.query.get("cid") != "abc-1":
            return 403, ""
        body = request.body.decode()
        found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})\n([^\n]*)\n", body)
        if found is None:
            return 400, "Invalid caption"
        time = datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()
        seq = int(request.query["seq"])
        if self.captions and (seq, time) <= self.captions[-1][:2]:
            return 400, "not in order"
        self.captions.append((seq, time, found[2]))
        return 200, datetime.now(UTC).isoformat()


@pytest.fixture(name="ingestion")
async def _ingestion():
    ingestion = Ingestion()
    yield ingestion
    await asyncio.to_thread(ingestion.close)


@pytest.fixture(name="youtube")
async def _youtube(ingestion):
    youtube = YouTube(f"{ingestion.url}/closedcaption?cid=abc-1")
    yield youtube
    await youtube.close()


async def test_captions_have_their_time(ingestion, youtube):
    await youtube.send(caption(1, "Good morning,\neveryone.", start=1_795_535_592.25))
    await youtube.send(caption(2, "¿Qué tal?", start=1_795_535_594.5))

    assert ingestion.captions == [
        (1, 1_795_535_592.25, "Good morning,<br>everyone."),
        (2, 1_795_535_594.5, "¿Qué tal?"),
    ]


async def test_the_count_goes_on_over_streams(ingestion, youtube):
    await youtube.send(caption(1, start=1.0))
    await youtube.close()
    await youtube.send(caption(1, stream="another", start=2.0))

    assert [seq for seq, *_ in ingestion.captions] == [1, 2]


@pytest.mark.parametrize("mishap", [500, 503, "lost"])
async def test_an_attempt_that_failed_is_repeated_with_its_number(ingestion, youtube, mishap):
    ingestion.mishaps = [mishap]
    with pytest.raises(BusyError):
        await youtube.send(caption(1))
    await youtube.send(caption(1))

    assert [request.query["seq"] for request in ingestion.requests] == ["1", "1"]
    assert len(ingestion.captions) == 1


async def test_a_wrong_address_is_given_up(ingestion):
    youtube = YouTube(f"{ingestion.url}/closedcaption?cid=another")
    with pytest.raises(ClosedError):
        await youtube.send(caption(1))
    await youtube.close()
