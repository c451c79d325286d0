"""How sinks fail."""

from __future__ import annotations

import pytest

from pipeline.errors import SurtitleError
from workers.sinks.base import BusyError, ClosedError, RefusedError, Sink, SinkError


@pytest.mark.parametrize("kind", [BusyError, RefusedError, ClosedError])
def test_every_failure_is_one_of_a_sink(kind):
    error = kind("why")

    assert isinstance(error, SinkError)
    assert isinstance(error, SurtitleError)
    assert error.code == "sink_failed"


def test_a_sink_sends_and_closes():
    with pytest.raises(TypeError, match="abstract"):
        Sink()
