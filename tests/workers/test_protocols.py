"""Workers keep to the interface; errors carry the code for the client."""

from __future__ import annotations

import inspect

import pytest

from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.placement import RayWorker
from workers.protocols import StreamError, Worker, WorkerLostError

METHODS = [name for name, value in vars(Worker).items() if inspect.iscoroutinefunction(value)]


@pytest.mark.parametrize("kind", [EncoderWorker, DecoderWorker, RayWorker])
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_worker_keeps_to_the_interface(kind, method):
    assert _parameters(getattr(kind, method)) == _parameters(getattr(Worker, method))


def test_the_interface_is_complete():
    assert set(METHODS) == {"start", "restart", "narrow", "step", "stats", "check_health"}


def test_errors_carry_their_code():
    assert StreamError("full", code="at_capacity").code == "at_capacity"
    assert WorkerLostError("gone").code == "worker_lost"


def _parameters(method):
    parameters = dict(inspect.signature(method).parameters)
    parameters.pop("_ray_trace_ctx", None)  # Ray adds it to the methods of every class that became an actor
    return parameters
