"""What a gateway says of the places that it will need."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.autoscale import LEAD_SECONDS, Forecast
from workers.metrics import Metrics


def observed(history, places=100, **options):
    """The load after a history of (seconds, streams) or (seconds, streams, refused)."""
    forecast = Forecast(places, **options)
    return [forecast.observe(now, streams, *(refused or [0])) for now, streams, *refused in history][-1]


def test_nobody_there_is_no_load():
    assert observed([(0, 0), (15, 0)]) == 0


def test_steady_streams_are_counted_once_with_some_room():
    steady = observed([(15 * n, 50) for n in range(100)])
    assert steady == pytest.approx((50 + math.sqrt(50)) / 85)


def test_as_many_streams_as_places_want_more_than_one_gateway():
    assert observed([(0, 100), (600, 100)]) > 1


def test_growth_counts_for_as_long_as_another_gateway_takes():
    rising = [(15.0 * n, n) for n in range(30)]  # one stream more every 15 s
    ahead = 29 + LEAD_SECONDS / 15

    assert observed(rising) == pytest.approx((ahead + math.sqrt(ahead)) / 85)
    assert observed(rising, lead=0) < observed(rising)


def test_a_rush_counts_before_it_is_over():
    calm = [(15.0 * n, 10) for n in range(40)]
    rush = [(600.0 + 15 * n, 10 + 5 * n) for n in range(1, 4)]
    assert observed(calm + rush) > 2 * observed(calm)


def test_falling_numbers_promise_nothing():
    falling = [(15.0 * n, 100 - n) for n in range(50)]
    assert observed(falling) == pytest.approx((51 + math.sqrt(51)) / 85)


def test_the_refused_come_again():
    full = [(15.0 * n, 100, 0) for n in range(40)]
    refusing = [(600.0 + 15 * n, 100, 12 * n) for n in range(1, 4)]
    assert observed(full + refusing) > observed(full)


def test_refusals_are_forgotten():
    history = [(0, 10, 0), (15, 10, 50), *((30.0 + 15 * n, 10, 50) for n in range(60))]
    assert observed(history) == observed([(0, 10), (930, 10)])


@given(st.lists(st.tuples(st.floats(0.1, 500), st.integers(0, 1000), st.integers(0, 50)), min_size=1))
def test_it_is_never_less_than_what_is_there(steps):
    forecast = Forecast(100)
    moments = itertools.accumulate(step[0] for step in steps)
    totals = itertools.accumulate(step[2] for step in steps)
    for now, (_, streams, _), refused in zip(moments, steps, totals, strict=True):
        assert forecast.observe(now, streams, refused) >= streams / 100


@given(st.integers(1, 20), st.integers(0, 2000))
def test_loads_of_gateways_add_up_to_no_less_than_one_gateway_would_say(gateways, streams):
    shares = [streams // gateways + (n < streams % gateways) for n in range(gateways)]
    together = sum(Forecast(100).observe(0, share, 0) for share in shares)
    assert together >= Forecast(100).observe(0, streams, 0) - 1e-9


def test_the_metric_says_what_the_forecast_makes_of_the_server():
    metrics, now = Metrics(), iter((0.0, 15.0, 30.0))
    metrics.forecast(Forecast(10), clock=lambda: next(now))

    def load():
        (sample,) = (s for family in metrics.load.collect() for s in family.samples)
        return sample.value

    assert load() == 0
    metrics.streams.inc(5)
    rising = load()
    metrics.errors.labels("at_capacity").inc(30)
    assert rising > 5 / 10
    assert load() > rising
