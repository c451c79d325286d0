"""Messages cross to another process and arrive as they were."""

from __future__ import annotations

import pickle

import pytest

from pipeline.config import StreamConfig
from workers.messages import (
    Done,
    Failed,
    Flush,
    Open,
    Push,
    Release,
    Reply,
    Update,
    WorkerInfo,
    WorkerStats,
)


@pytest.mark.parametrize(
    "message",
    [
        Open("a", StreamConfig(targets=("en", "fr"))),
        Push("a", (b"\0\1", b"\2\3")),
        Flush("a"),
        Update("a", ("en",), partials=False),
        Release("a"),
        Reply([Done(("item",)), Failed("internal", "it failed")], credits=3, seconds=0.1),
        WorkerInfo(pid=1, credits=2),
        WorkerStats(streams=1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_round_trip(message):
    assert pickle.loads(pickle.dumps(message)) == message


def test_an_envelope_is_small():
    push = Push("x" * 16, (bytes(3_200),))

    assert len(pickle.dumps(push)) < 3_200 + 200
