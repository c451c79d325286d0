"""Percentiles of a histogram are where the values are."""

from __future__ import annotations

import math

import pytest

from benchmarks.load import percentile


def test_a_percentile_lies_in_its_bucket():
    counts = {0.001: 0, 0.002: 50, 0.003: 100, math.inf: 100}

    assert percentile(counts, 0.99) == pytest.approx(0.00298)
    assert percentile(counts, 0.5) == 0.002
    assert percentile(counts, 0.25) == pytest.approx(0.0015)


def test_beyond_the_last_bucket_it_is_its_end():
    assert percentile({0.001: 1, math.inf: 100}, 0.99) == 0.001


def test_nothing_measured_is_no_number():
    assert math.isnan(percentile({0.001: 0, math.inf: 0}, 0.99))
    assert math.isnan(percentile({}, 0.99))
