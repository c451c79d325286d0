"""Captions on their way: in order, at their time, again after failures, and never in the stream's way."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest

from pipeline.text.cues import CueConfig
from pipeline.wire import events
from pipeline.wire.events import Sequencer
from tests.workers.conftest import eventually
from workers.eventlog import EventLog
from workers.metrics import Metrics
from workers.sinks.base import BusyError, ClosedError, RefusedError, Sink
from workers.sinks.delivery import Delivery, Patience

QUICK = CueConfig(language="en", shortest=0.03, longest=0.06, speed=10_000, gap=0.01, hold=0.02, tolerance=0)
PATIENT = Patience(first=0.001, longest=0.004, late=2.0)


class Speaker:
    """A stream, as far as a delivery looks at it."""

    def __init__(self):
        self.id = "s"
        self.config = events.Ready(source="es")
        self.log = EventLog()
        self.sequencer = Sequencer("s")
        self.utterances = 0

    def say(self, *texts):
        for text in texts:
            about = {"utterance": self.utterances, "start": 0.0, "end": 1.0, "tentative": "", "final": True}
            event = events.Translation(**about, target="en", stable=text)
            self.log.append(self.sequencer.stamp(event, server_time=time.time()))
            self.utterances += 1

    def end(self):
        self.log.append(self.sequencer.stamp(events.Done(), server_time=time.time()), last=True)


class Screen(Sink):
    """Shows what it is sent, after the failures that were ordered."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.shown = []
        self.attempts = []
        self.times = []
        self.closed = False
        self.go = asyncio.Event()
        self.go.set()

    async def send(self, caption):
        self.attempts.append(caption.number)
        await self.go.wait()
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        self.shown.append(caption.text)
        self.times.append((caption.start, time.time()))

    async def close(self):
        self.closed = True


class Clearing(Screen):
    clears = True


def delivery(screen, speaker, patience=PATIENT, config=QUICK):
    metrics = Metrics()
    delivering = Delivery(
        "hall", screen, speaker, config, clock=time.time, metrics=metrics, patience=patience
    )
    return delivering, lambda outcome: metrics.registry.get_sample_value(
        "surtitle_sink_captions_total", {"sink": "hall", "outcome": outcome}
    )


async def until(condition):
    async def asked():
        return condition()

    await eventually(asked)


async def delivered(screen, *texts, **options):
    speaker = Speaker()
    delivering, count = delivery(screen, speaker, **options)
    speaker.say(*texts)
    speaker.end()
    async with asyncio.timeout(20):
        await delivering.run()
    return count


async def test_captions_come_in_order_and_not_before_their_time():
    screen = Screen()
    count = await delivered(screen, "One.", "Two.", "Three.")

    assert screen.shown == ["One.", "Two.", "Three."]
    assert all(now >= start for start, now in screen.times)
    starts = [start for start, _ in screen.times]
    assert all(later - earlier >= 0.03 for earlier, later in pairwise(starts))
    assert count("sent") == 3
    assert screen.closed


async def test_failures_are_tried_again_and_order_is_kept():
    screen = Screen(BusyError("no"), BusyError("no"), None, BusyError("no"))
    await delivered(screen, "One.", "Two.", "Three.")

    assert screen.shown == ["One.", "Two.", "Three."]
    assert screen.attempts == [1, 1, 1, 2, 2, 3]


async def test_delays_grow_and_are_not_all_the_same():
    screen = Screen(*[BusyError("no")] * 6)
    moments = []
    send = screen.send

    async def timed(caption):
        moments.append(time.monotonic())
        await send(caption)

    screen.send = timed
    await delivered(screen, "One.", patience=Patience(first=0.02, longest=0.1, late=5.0))
    delays = [later - earlier for earlier, later in pairwise(moments)]

    for number, delay in enumerate(delays):
        assert delay >= min(0.1, 0.02 * 2**number) / 2
    assert len({round(delay, 4) for delay in delays}) > 3


async def test_a_sink_says_when_to_come_back():
    screen = Screen(BusyError("no", retry_after=0.15))
    started = time.monotonic()
    await delivered(screen, "One.")

    assert time.monotonic() - started >= 0.15


async def test_what_is_refused_is_left_out():
    screen = Screen(RefusedError("the meeting has not begun"))
    count = await delivered(screen, "One.", "Two.")

    assert screen.shown == ["Two."]
    assert count("refused") == 1


async def test_a_closed_sink_ends_the_delivery():
    screen = Screen(None, ClosedError("expired"))
    await delivered(screen, "One.", "Two.", "Three.")

    assert screen.shown == ["One."]
    assert screen.closed


async def test_what_is_late_is_left_out():
    """The screen comes back after a while; what would have stood there by then is not shown any more."""
    screen = Screen(*[BusyError("away")] * 40)
    count = await delivered(
        screen, *"abcdefgh", patience=Patience(first=0.01, longest=0.01, late=0.05, waiting=64)
    )

    assert count("late") >= 1
    assert screen.shown == sorted(screen.shown)


async def test_a_sink_that_hangs_holds_up_nobody_and_loses_the_oldest():
    screen = Screen()
    screen.go.clear()
    speaker = Speaker()
    delivering, count = delivery(screen, speaker, Patience(late=60.0, waiting=3))
    task = asyncio.create_task(delivering.run())
    speaker.say("first")
    async with asyncio.timeout(10):
        await until(lambda: screen.attempts)
        for number in range(10):
            speaker.say(f"number {number}")
        await until(lambda: count("dropped") == 7)
        screen.go.set()
        speaker.end()
        await task

    assert screen.shown == ["first", "number 7", "number 8", "number 9"]


async def test_a_screen_is_cleared_when_nothing_follows():
    screen = Clearing()
    speaker = Speaker()
    delivering, _ = delivery(screen, speaker)
    task = asyncio.create_task(delivering.run())
    speaker.say("One.", "Two.")
    async with asyncio.timeout(10):
        await until(lambda: screen.shown[-1:] == [""])
        speaker.say("Three.")
        speaker.end()
        await task

    assert screen.shown == ["One.", "Two.", "", "Three.", ""]


async def test_another_language_is_not_delivered():
    screen = Screen()
    speaker = Speaker()
    delivering, _ = delivery(screen, speaker, config=CueConfig(language="fr"))
    speaker.say("One.")
    speaker.end()
    await delivering.run()

    assert screen.shown == []


async def test_cancelling_closes_the_sink():
    screen = Screen()
    delivering, _ = delivery(screen, Speaker())
    task = asyncio.create_task(delivering.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert screen.closed
