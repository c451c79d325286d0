"""The choice of a sub-model: down at once, up with patience, and steady in between."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gemma.elastic import WidthLimits, WidthPolicy

LADDER = (None, (20, 20), (10, 10))
LIMITS = WidthLimits(patience=3)
QUIET, STEADY, BUSY, LATE = (0.3, 0.2), (0.7, 0.2), (0.95, 0.2), (0.3, 1.5)


def choices(*told, limits=LIMITS):
    policy = WidthPolicy(LADDER, limits)
    return [policy.choose_width(*numbers) for numbers in told]


@pytest.mark.parametrize("trouble", [BUSY, LATE])
def test_trouble_narrows_step_by_step_to_the_narrowest(trouble):
    assert choices(QUIET, trouble, trouble, trouble) == [None, (20, 20), (10, 10), (10, 10)]


def test_quiet_widens_when_it_has_lasted():
    assert choices(BUSY, BUSY, *[QUIET] * 7) == [
        *[(20, 20), (10, 10)],
        *[(10, 10), (10, 10), (20, 20)],
        *[(20, 20), (20, 20), None, None],
    ]


@pytest.mark.parametrize("between", [STEADY, (0.3, 0.8), (0.7, 0.8)])
def test_what_lies_between_changes_nothing_and_ends_the_quiet(between):
    assert choices(BUSY, QUIET, QUIET, between, QUIET, QUIET, between)[1:] == [(20, 20)] * 6


@given(st.lists(st.tuples(st.floats(0.61, 0.84), st.floats(0.0, 0.99)), min_size=1))
def test_a_load_that_wavers_in_the_gap_never_flips_the_width(told):
    assert set(choices(BUSY, *told)) == {(20, 20)}


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5)), min_size=1))
def test_it_moves_one_step_at_a_time_and_by_the_numbers_alone(told):
    chosen = choices(*told)
    rungs = [0, *(LADDER.index(widths) for widths in chosen)]

    assert all(abs(after - before) <= 1 for before, after in itertools.pairwise(rungs))
    assert chosen == choices(*told)


@pytest.mark.parametrize(
    "limits",
    [{"widen_load": 0.9}, {"widen_latency": 1.0}, {"widen_load": 0.0}, {"patience": 0}],
)
def test_limits_without_a_gap_are_refused(limits):
    with pytest.raises(ValueError, match="must be"):
        WidthLimits(**limits)


def test_a_ladder_has_a_rung():
    with pytest.raises(ValueError, match="at least one"):
        WidthPolicy(())
