"""A fleet places streams where there is room, and keeps its spares for those that lost their worker."""

from __future__ import annotations

import asyncio

import pytest

from workers.fleet import Fleet
from workers.protocols import WorkerLostError
from workers.pump import Pump


def pump(credits, *, spare=False):
    made = Pump("encoder", None, spare=spare)
    made.credits, made.alive = credits, credits is not None
    made.credits = credits or 0
    return made


def test_the_least_loaded_takes_the_next():
    full, some, more = pump(0), pump(2), pump(3)
    fleet = Fleet([full, some, more])

    taken = [fleet.take() for _ in range(5)]

    assert taken[0] is more
    assert (taken.count(some), taken.count(more)) == (2, 3)
    assert fleet.take() is None


def test_spares_are_for_those_who_lost_their_worker():
    usual, spare = pump(1), pump(5, spare=True)
    fleet = Fleet([usual, spare])

    assert fleet.take(spares=True) is usual
    assert fleet.take() is None
    assert fleet.take(spares=True) is spare


def test_spares_take_new_streams_when_all_others_are_lost():
    spare = pump(5, spare=True)

    assert Fleet([pump(None), spare]).take() is spare


async def test_room_is_waited_for():
    busy = pump(0)
    fleet = Fleet([busy])
    waiting = asyncio.create_task(fleet.take_soon(20))
    await asyncio.sleep(0)
    busy.credits = 1
    busy.on_room()

    assert await waiting is busy


async def test_room_is_not_waited_for_for_ever():
    with pytest.raises(WorkerLostError, match=r"no worker had room for 0\.01 s"):
        await Fleet([pump(0)]).take_soon(0.01)
