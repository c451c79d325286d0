"""Where workers run: a local Ray, started for this process alone, and actors on it.

With :mod:`workers.pool` this is all that knows of Ray.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

# Ray reads these once, when it is imported. A token of this run's own keeps everybody else on the
# machine off the cluster: who can reach a Ray without one can run code in it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import SurtitleError
from workers.host import StreamHost
from workers.messages import Reply, Request, WorkerInfo, WorkerStats
from workers.protocols import Load, WorkerLostError

OBJECT_STORE_BYTES = 100_000_000
"""Calls are kept below what would pass through the object store; this is nearly the least Ray takes."""

HEALTH_SECONDS = 5.0

Answer = TypeVar("Answer")


class RayWorker:
    """A :class:`~workers.host.StreamHost` in a process of its own; itself a ``Worker``.

    Ray starts the process again when it dies, empty: :meth:`start` loads the model again.

    Args:
        host: the class to run there.
        load: as for ``host``; it is pickled.
        capacity: as for ``host``.
        threads: as for ``host``; Ray itself would leave one.
        gpus: GPUs, or the fraction of one, to reserve.
    """

    def __init__(
        self,
        host: type[StreamHost[Any]],
        load: Load[Any],
        *,
        capacity: int,
        threads: int,
        gpus: float = 0.0,
    ) -> None:
        # Reserving CPUs would only make a machine with fewer cores than workers wait for ever.
        actor = ray.remote(host).options(
            num_cpus=0,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=0,  # a batch that was half carried out must not be carried out twice
            enable_task_events=False,  # they would fill the GCS: 350 MB after 240,000 calls
        )
        self._actor = actor.remote(load, capacity=capacity, threads=threads)

    async def start(self) -> WorkerInfo:
        """Load the model there; returns once the worker can serve."""
        return await _reply(self._actor.start.remote())

    async def step(self, batch: Sequence[Request[Any]]) -> Reply:
        """Carry out a batch there."""
        return await _reply(self._actor.step.remote(batch))

    async def stats(self) -> WorkerStats:
        """Totals since the process was started."""
        return await _reply(self._actor.stats.remote())

    async def check_health(self) -> None:
        """Return when the worker's event loop runs."""
        await _reply(self._actor.check_health.remote())


def start_local() -> None:
    """Start a Ray for this process, quietly: no dashboard, no logs in the terminal."""
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
        _system_config={"task_events_report_interval_ms": 0},
    )


def stop_local() -> None:
    """Stop the Ray of :func:`start_local` and every worker on it."""
    ray.shutdown()


async def _reply(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except RayTaskError as error:
        if isinstance(error.cause, SurtitleError):
            raise error.cause from None
        raise WorkerLostError(f"the worker failed ({type(error.cause).__name__})") from error
    except RayError as error:
        # Only the kind: the message of a Ray error ends in the actor's traceback.
        raise WorkerLostError(f"the worker's process does not answer ({type(error).__name__})") from error
