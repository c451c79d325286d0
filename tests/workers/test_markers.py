"""Items between two markers travel together, and markers alone, in order."""

from __future__ import annotations

import pickle

from pipeline.wire import commands
from workers.markers import Heard, Point, runs


def test_runs_keep_the_order():
    stop, heard, point = commands.Stop(), Heard(1.0), Point(16_000, b"e", None)

    assert list(runs([b"a", b"b", heard, point, b"c", stop])) == [
        (b"a", b"b"),
        heard,
        point,
        (b"c",),
        stop,
    ]


def test_a_point_can_be_written_down():
    point = Point(16_000, b"encoder", ("decoder", 3, None))

    assert pickle.loads(pickle.dumps(point)) == point
