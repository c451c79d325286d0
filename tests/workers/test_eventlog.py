"""An EventLog is followed from any position, by any number of readers."""

from __future__ import annotations

import asyncio
import json

import pytest

from pipeline.wire.events import Done, Mark, Sequencer
from workers.eventlog import Entry, EventLog
from workers.protocols import StreamError


class Log(EventLog):
    """An EventLog that is filled by name."""

    def __init__(self, capacity=100):
        super().__init__(capacity)
        self.sequencer = Sequencer("s")

    def add(self, *names):
        for name in names:
            self.append(self.sequencer.stamp(Mark(id=name)))

    def end(self):
        self.append(self.sequencer.stamp(Done()), last=True)


async def names(log, after_seq):
    return [getattr(entry.event, "id", "done") async for entry in log.follow(after_seq)]


async def test_followers_get_what_was_and_what_comes():
    log = Log()
    log.add("a", "b")
    early = asyncio.create_task(names(log, 0))
    late = asyncio.create_task(names(log, 2))
    await asyncio.sleep(0)
    log.add("c")
    await asyncio.sleep(0)
    log.add("d")
    log.end()

    assert await early == ["a", "b", "c", "d", "done"]
    assert await late == ["c", "d", "done"]


async def test_a_closed_log_is_followed_to_its_end():
    log = Log()
    log.add("a")
    log.end()

    assert await names(log, 1) == ["done"]
    assert await names(log, 2) == []


async def test_a_follower_who_lost_its_place_is_told():
    log = Log(capacity=3)
    log.add("a")
    following = aiter(log.follow(0))
    assert (await anext(following)).event.id == "a"

    log.add("b", "c", "d", "e")

    assert log.first_seq == 3
    with pytest.raises(StreamError, match="events 2 to 2 are no longer kept") as caught:
        await anext(following)
    assert caught.value.code == "too_slow"


async def test_entries_carry_the_text_for_the_wire():
    log = Log()
    log.add("ñ")

    entry = await anext(aiter(log.follow(0)))

    assert json.loads(entry.text) == {
        "type": "mark",
        "id": "ñ",
        "stream_id": "s",
        "seq": 1,
        "audio_time": 0.0,
        "server_time": 0.0,
    }


@pytest.mark.parametrize(("after_seq", "seqs"), [(0, [3, 4, 5]), (3, [4, 5]), (5, []), (9, [])])
def test_what_is_kept(after_seq, seqs):
    log = Log(capacity=3)
    log.add(*"abcde")

    assert [entry.event.seq for entry in log.kept(after_seq)] == seqs


async def test_growth_is_waited_for_once():
    log = Log()
    log.add("a")
    await log.grown(0)
    waiting = asyncio.create_task(log.grown(1))
    await asyncio.sleep(0)
    assert not waiting.done()

    log.end()
    await waiting
    await log.grown(99)  # there will be none


async def test_what_is_held_is_seen_by_nobody_before_it_is_released():
    log = EventLog(held=True)
    stamp = Sequencer("s").stamp
    for event in (Mark(id="a"), Mark(id="b")):
        log.append(stamp(event))
    log.append(stamp(Done()), last=True)
    reading = asyncio.create_task(names(log, 0))
    await asyncio.sleep(0)

    assert (log.last_seq, log.ended, log.closed, log.kept(0)) == (0, True, False, [])
    log.release(2)
    assert (log.last_seq, log.closed, len(log.unseen())) == (2, False, 1)
    log.release(3)
    assert await reading == ["a", "b", "done"]


def test_a_log_that_is_taken_over_goes_on_behind_what_was_seen():
    log, stamp = EventLog(held=True), Sequencer("s").stamp
    ours = [log.append(stamp(Mark(id=name))) for name in "ab"]
    log.release(1)
    log.discard()
    theirs = Entry(Mark(id="x", seq=2), "")
    log.fill([theirs])

    assert log.kept(0) == [ours[0], theirs]
    log.fill([Entry(Mark(id="y", seq=7), "")], closed=True)
    assert (log.first_seq, log.last_seq, log.closed) == (7, 7, True)
