"""The simulation keeps to Kubernetes' rules and loses no stream on the way."""

from __future__ import annotations

import tomllib

import pytest

from benchmarks.autoscale import (
    DAYS,
    SCALER,
    Arrival,
    Replicas,
    Scaler,
    arrivals,
    peak,
    plot,
    simulate,
    without_foresight,
)
from workers.autoscale import Forecast

UP = [
    {"type": "Percent", "value": 100, "periodSeconds": 60},
    {"type": "Pods", "value": 4, "periodSeconds": 60},
]
DOWN = [{"type": "Pods", "value": 1, "periodSeconds": 120}]
OPTIONS = {"places": 10, "start_seconds": 60, "seed": 0}
SCALE = Scaler(low=2, high=20, target=1.0, up=UP, down=DOWN, down_window=300)


def looks(loads_at, number=2):
    replicas = Replicas(SCALE, number)
    return [replicas.look(now, loads) for now, loads in loads_at]


def test_within_the_tolerance_nothing_changes():
    assert looks([(0, [1.09] * 5), (15, [0.91] * 5)], number=5) == [5, 5]


def test_the_sum_of_loads_is_what_is_wanted():
    assert looks([(0, [2.3, 2.3])]) == [5]


def test_no_more_than_the_policies_let_through():
    assert looks([(0, [20.0, 20.0]), (15, [20.0, 20.0]), (61, [20.0, 20.0])]) == [6, 6, 12]


def test_never_beyond_the_bounds():
    assert looks([(n, [50.0]) for n in range(0, 600, 15)])[-1] == 20
    assert looks([(n, [0.0]) for n in range(0, 3600, 15)], number=3)[-1] == 2


def test_fewer_only_when_the_whole_window_agrees_and_one_at_a_time():
    busy = [(n, [1.0] * 6) for n in range(0, 60, 15)]
    calm = [(n, [0.2] * 6) for n in range(60, 900, 15)]
    numbers = looks(busy + calm, number=6)
    first = next(n for n, number in enumerate(numbers) if number < 6)

    assert (busy + calm)[first][0] >= 300
    assert numbers[first] == 5
    assert numbers[first : first + 8] == [5] * 8


def test_the_manifest_is_what_is_simulated():
    scaler = Scaler.read(SCALER)
    assert scaler.low < scaler.high
    assert scaler.target == 1.0


def day(streams, load=without_foresight, scaler=SCALE, **options):
    return simulate("day", "way", streams, scaler, load, **OPTIONS | options)


def test_a_quiet_day_refuses_nobody_and_starts_nothing():
    outcome, trace = day([Arrival(40_000 + 60 * n, 60) for n in range(20)])
    assert (outcome.refused_at_first, outcome.given_up, outcome.most_gateways) == (0, 0, 2)
    assert max(trace.places) == 20


def test_a_rush_without_gateways_to_come_is_refused():
    fixed = Scaler(1, 1, 1.0, UP, DOWN, 300)
    outcome, _ = day([Arrival(40_000, 3600)] * 25, scaler=fixed)
    assert outcome.refused_at_first == 15
    assert outcome.given_up == 15
    assert outcome.reaction_max_s >= 3000


def test_who_waits_is_let_in_when_gateways_come():
    outcome, _ = day([Arrival(40_000, 3600)] * 30)
    assert outcome.refused_at_first > 0
    assert outcome.given_up == 0
    assert outcome.longest_wait_s < 300


def test_streams_of_gateways_that_leave_go_on_elsewhere():
    long = [Arrival(40_000 + n, 9000) for n in range(15)]
    short = [Arrival(40_000 + 5 * n, 600) for n in range(60)]
    streams = sorted(long + short, key=lambda stream: stream.start)
    outcome, trace = day(streams, load=lambda n: Forecast(n).observe)
    after = [n for hours, n in zip(trace.hours, trace.wanted, strict=True) if 12.5 < hours < 13.5]
    assert trace.places[-1] < max(trace.places)
    assert outcome.given_up == 0
    assert set(after) == {15}


def test_looking_ahead_refuses_fewer():
    (congress, *_) = tomllib.loads(DAYS.read_text())["days"]
    streams = arrivals(congress, seed=1)
    scaler = Scaler.read(SCALER)
    options = {"scaler": scaler, "places": 32, "start_seconds": 150}
    foresight, _ = day(streams, load=lambda n: Forecast(n).observe, **options)
    none, _ = day(streams, **options)

    assert foresight.streams == none.streams == len(streams)
    assert foresight.refused_at_first < none.refused_at_first
    assert foresight.reaction_max_s < none.reaction_max_s


@pytest.mark.parametrize("programme", tomllib.loads(DAYS.read_text())["days"], ids=lambda day: day["name"])
def test_programmes_fill_a_day(programme):
    streams = arrivals(programme, seed=3)
    assert [s.start for s in streams] == sorted(s.start for s in streams)
    assert peak(streams) > 32
    assert streams == arrivals(programme, seed=3) != arrivals(programme, seed=4)


def test_pictures_are_drawn(tmp_path):
    plot([simulate("day", "fixed", [Arrival(40_000, 600)], SCALE, without_foresight, **OPTIONS)], tmp_path)
    assert (tmp_path / "autoscale-day.png").read_bytes().startswith(b"\x89PNG")
