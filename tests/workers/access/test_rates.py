"""Buckets give their rate and no more; places are given back."""

from __future__ import annotations

import random
import secrets
import time

import pytest

from workers.access import rates
from workers.access.rates import Buckets, Places


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("seed", [secrets.randbits(32) for _ in range(3)])
def test_over_any_time_nobody_takes_more_than_rate_and_burst(seed):
    rng, clock = random.Random(seed), Clock()
    buckets, taken = Buckets(5.0, 10.0, clock), []
    while clock.now < 60:
        clock.now += rng.expovariate(20)
        if not buckets.take("a"):
            taken.append(clock.now)

    assert len(taken) >= 5 * 55
    for first, moment in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= 10 + 5 * (taken[last] - moment) + 1e-6


def test_the_wait_that_is_told_is_enough_and_no_longer():
    clock = Clock()
    buckets = Buckets(2.0, 1.0, clock)
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0
    assert buckets.take("a") == pytest.approx(0.5)
    clock.now += 0.4
    assert buckets.take("a") > 0
    clock.now += 0.1
    assert buckets.take("a") == 0


async def test_who_takes_too_much_waits_for_it():
    buckets = Buckets(1_000.0, 100.0, time.monotonic)
    began = time.monotonic()
    for _ in range(4):
        await buckets.take_soon("a", 50.0)

    assert time.monotonic() - began >= 0.1


def test_buckets_are_bounded(monkeypatch):
    monkeypatch.setattr(rates, "MOST_REMEMBERED", 10)
    buckets = Buckets(1.0, 1.0, Clock())
    for who in range(100):
        buckets.take(who)

    assert len(buckets._levels) == 10


def test_places_are_so_many_for_each_and_are_given_back():
    places = Places(2)

    assert [places.take(["a"]), places.take(["a", "b"]), places.take(["a", "b"])] == [True, True, False]
    assert places.take(["b"])
    places.leave(["a"])
    assert places.take(["a"])
    for who in "aabb":
        places.leave([who])
    assert not places._taken
