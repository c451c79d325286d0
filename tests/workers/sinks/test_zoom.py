"""Zoom, as its closed captioning API is documented: sequence numbers, statuses, what is lost on the way."""

from __future__ import annotations

import asyncio

import pytest

from tests.workers.sinks.conftest import Destination, caption
from workers.sinks.base import BusyError, ClosedError, RefusedError
from workers.sinks.zoom import Zoom

QUERY = "id=123&ns=Q29u&expire=108000&sparams=id%2Cns%2Cexpire&signature=tdBHqUh"


class Meeting(Destination):
    """Takes each sequence number once, in order."""

    def __init__(self):
        super().__init__()
        self.last = 0
        self.begun = True
        self.signature = "tdBHqUh"
        self.captions = []

    def answer(self, request):
        if request.query.get("signature") != self.signature:
            return 403, "bad signature"
        if request.path == "/closedcaption/seq":
            return 200, f"{self.last}\n"
        if request.method != "POST":
            return 405, ""
        if not self.begun:
            return 400, "the meeting has not started"
        seq = int(request.query["seq"])
        if seq <= self.last:
            return 403, "bad seq"
        self.last = seq
        self.captions.append((seq, request.query["lang"], request.body.decode()))
        return 200, ""


@pytest.fixture(name="meeting")
async def _meeting():
    meeting = Meeting()
    yield meeting
    await asyncio.to_thread(meeting.close)


@pytest.fixture(name="zoom")
async def _zoom(meeting):
    zoom = Zoom(f"{meeting.url}/closedcaption?{QUERY}", "en-US")
    yield zoom
    await zoom.close()


async def test_captions_are_numbered(meeting, zoom):
    await zoom.send(caption(1, "Good morning,\neveryone."))
    await zoom.send(caption(2, "¿Qué tal?"))

    assert meeting.captions == [(1, "en-US", "Good morning,\neveryone."), (2, "en-US", "¿Qué tal?")]
    assert meeting.requests[-1].headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_the_count_goes_on_over_streams_and_restarts(meeting, zoom):
    await zoom.send(caption(1))
    await zoom.close()
    await zoom.send(caption(1, stream="another"))
    again = Zoom(f"{meeting.url}/closedcaption?{QUERY}", "en-US")
    await again.send(caption(1, stream="a third"))
    await again.close()

    assert [seq for seq, *_ in meeting.captions] == [1, 2, 3]


@pytest.mark.parametrize("mishap", [408, 429, 500, 503, "lost"])
async def test_an_attempt_that_failed_is_repeated_with_its_number(meeting, zoom, mishap):
    await zoom.send(caption(1))
    meeting.mishaps = [mishap]
    with pytest.raises(BusyError):
        await zoom.send(caption(2))
    await zoom.send(caption(2))
    await zoom.send(caption(3))

    assert [request.query["seq"] for request in meeting.requests if request.method == "POST"] == [*"1223"]
    assert [seq for seq, *_ in meeting.captions] == [1, 2, 3]


async def test_an_answer_that_was_lost_does_not_repeat_a_caption(meeting, zoom):
    await zoom.send(caption(1))
    meeting.mishaps = ["cut"]
    with pytest.raises(BusyError):
        await zoom.send(caption(2, "once"))
    await zoom.send(caption(2, "once"))
    await zoom.send(caption(3))

    assert [text for _, _, text in meeting.captions].count("once") == 1
    assert [seq for seq, *_ in meeting.captions] == [1, 2, 3]


async def test_a_caption_that_was_given_up_is_asked_for(meeting, zoom):
    """Nobody knows whether it arrived; the next one has to have the right number all the same."""
    await zoom.send(caption(1))
    for number, mishap in ((2, "cut"), (3, "lost")):
        meeting.mishaps = [mishap]
        with pytest.raises(BusyError):
            await zoom.send(caption(number, mishap))
        await zoom.send(caption(number + 10, "next"))

    assert [text for _, _, text in meeting.captions] == ["Hello.", "cut", "next", "next"]


async def test_somebody_else_has_sent_captions(meeting, zoom):
    await zoom.send(caption(1))
    meeting.last = 41
    with pytest.raises(BusyError, match="42"):
        await zoom.send(caption(2))
    await zoom.send(caption(2))

    assert meeting.captions[-1][0] == 42


async def test_a_meeting_that_has_not_begun_takes_the_next(meeting, zoom):
    meeting.begun = False
    with pytest.raises(RefusedError, match="not begun"):
        await zoom.send(caption(1))
    meeting.begun = True
    await zoom.send(caption(2))

    assert [seq for seq, *_ in meeting.captions] == [1]


async def test_an_address_that_has_expired_is_given_up(meeting, zoom):
    meeting.signature = "another"
    with pytest.raises(ClosedError, match="403"):
        await zoom.send(caption(1))


async def test_an_address_that_expires_under_way_is_given_up(meeting, zoom):
    await zoom.send(caption(1))
    meeting.signature = "another"
    with pytest.raises(ClosedError):
        await zoom.send(caption(2))


async def test_what_does_not_know_its_number_is_asked_again(zoom, meeting):
    meeting.answer = lambda request: (200, "<html>")
    with pytest.raises(BusyError, match="not told"):
        await zoom.send(caption(1))
