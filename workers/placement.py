"""Where workers run: a local Ray, started for this process alone, or a cluster, and actors on it.

With :mod:`workers.pool` this is all that knows of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

# Ray reads these once, when it is imported. A token of this run's own keeps everybody else on the
# machine off the cluster: who can reach a Ray without one can run code in it. A cluster has its own.
if not os.environ.get("RAY_ADDRESS"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import SurtitleError
from pipeline.gemma.matformer import Widths
from workers.access.identity import Identity
from workers.host import StreamHost
from workers.ledger import FORMAT, Ledger, Record, Verdict, Write
from workers.messages import Reply, Request, WorkerInfo, WorkerStats
from workers.protocols import Load, WorkerLostError

OBJECT_STORE_BYTES = 100_000_000
"""Calls are kept below what would pass through the object store; this is nearly the least Ray takes."""

Answer = TypeVar("Answer")


class RayWorker:
    """A :class:`~workers.host.StreamHost` in a process of its own; itself a ``Worker``.

    When the process dies, its calls fail within milliseconds; :meth:`restart` has another one started. Ray
    could do that by itself, but then it would tell of the loss only after nearly two seconds.

    Args:
        host: the class to run there.
        load: as for ``host``; it is pickled.
        capacity: as for ``host``.
        threads: as for ``host``; Ray itself would leave one.
        gpus: GPUs, or the fraction of one, to reserve.
        resources: what else to reserve, see :func:`place_of`.
    """

    def __init__(
        self,
        host: type[StreamHost[Any]],
        load: Load[Any],
        *,
        capacity: int,
        threads: int,
        gpus: float = 0.0,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        # Reserving CPUs would only make a machine with fewer cores than workers wait for ever.
        actor = ray.remote(host).options(
            num_cpus=0,
            num_gpus=gpus,
            resources=dict(resources or {}),
            max_restarts=0,
            max_task_retries=0,  # a batch that was half carried out must not be carried out twice
            enable_task_events=False,  # they would fill the GCS: 350 MB after 240,000 calls
        )
        self._place = partial(actor.remote, load, capacity=capacity, threads=threads)
        self._actor = self._place()

    async def start(self) -> WorkerInfo:
        """Load the model there; returns once the worker can serve."""
        return await _reply(self._actor.start.remote())

    async def restart(self) -> WorkerInfo:
        """End the process, also one that hangs, and load the model in another."""
        await asyncio.to_thread(ray.kill, self._actor, no_restart=True)
        self._actor = self._place()
        return await self.start()

    async def step(self, batch: Sequence[Request[Any]]) -> Reply:
        """Carry out a batch there."""
        return await _reply(self._actor.step.remote(batch))

    async def narrow(self, widths: Widths | None) -> None:
        """Go on in a sub-model there."""
        await _reply(self._actor.narrow.remote(widths))

    async def stats(self) -> WorkerStats:
        """Totals since the process was started."""
        return await _reply(self._actor.stats.remote())

    async def check_health(self) -> None:
        """Return when the worker's event loop runs."""
        await _reply(self._actor.check_health.remote())


class RayLedger:
    """The :class:`~workers.ledger.Ledger` that all gateways of a cluster share; the first one starts it.

    It outlives them all. The CPU that it reserves, next to nothing, keeps it off nodes without any: those of
    gateways, which it has to survive. Where its node is lost, Ray starts it anew, empty, on another.
    """

    def __init__(self) -> None:
        self._actor = (
            ray.remote(Ledger)
            .options(
                name=f"ledger {FORMAT}",
                namespace="surtitle",
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0.001,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=1_000,  # nearly all of them wait for events
                enable_task_events=False,
            )
            .remote()
        )

    async def write(self, batch: Sequence[Write]) -> list[Verdict]:
        """Take what a gateway has."""
        return await _reply(self._actor.write.remote(batch))

    async def claim(self, stream: str, token: str, tenant: str) -> Record | None:
        """Give a stream to whoever asks and may have it."""
        return await _reply(self._actor.claim.remote(stream, token, tenant))

    async def read(self, stream: str, after_seq: int, seconds: float) -> Record | None:
        """A stream's events."""
        return await _reply(self._actor.read.remote(stream, after_seq, seconds))

    async def put_ticket(self, key: str, identity: Identity, seconds: float, *, once: bool) -> bool:
        """Keep what a ticket is good for."""
        return await _reply(self._actor.put_ticket.remote(key, identity, seconds, once=once))

    async def take_ticket(self, key: str) -> Identity | None:
        """What a ticket is good for."""
        return await _reply(self._actor.take_ticket.remote(key))


def on_cluster() -> bool:
    """Whether ``RAY_ADDRESS`` names a Ray that is there already."""
    return bool(os.environ.get("RAY_ADDRESS"))


def place_of(stage: str) -> dict[str, float]:
    """What a worker of ``stage`` reserves: on a cluster one of the places that nodes offer for the stage.

    Nodes are given them with ``ray start --resources '{"surtitle_decoder": 1}'``. It is what keeps workers
    off the head and off the nodes of gateways, and what tells an autoscaler that a node is wanted.
    """
    return {f"surtitle_{stage}": 1.0} if on_cluster() else {}


def start() -> None:
    """Join the Ray that ``RAY_ADDRESS`` names, or start one for this process alone.

    A node of the cluster must run on this machine; ``ray start --address ... --num-cpus 0`` makes it one.
    """
    if on_cluster():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        start_local()


async def cut_off() -> None:
    """Return once the node that this process joined a cluster by has ended, as it also does when given up.

    The cluster ends this process' workers then, and places no others for it, also if another node comes.
    """
    own = ray.get_runtime_context().get_node_id()
    (place,) = [node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == own]
    with suppress(ConnectionError):
        reader, writer = await asyncio.open_unix_connection(place)
        try:
            await reader.read()
        finally:
            writer.close()


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
    """Stop every worker, and the Ray of :func:`start_local`; a cluster runs on."""
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
