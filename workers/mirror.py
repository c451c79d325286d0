"""Streams that another gateway has, for those who watch them here."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence

from pipeline.config import StreamConfig
from pipeline.wire.events import decode
from workers.bookkeeper import RETRY_SECONDS, WAIT_SECONDS, Bookkeeper
from workers.eventlog import Entry, EventLog
from workers.ledger import Line, Record, Title
from workers.protocols import WorkerLostError
from workers.published import Published


def title_of(stream: Published, token: str, seconds: float) -> Title:
    """What the ledger keeps of a stream besides its events.

    Args:
        stream: which.
        token: what it takes to come back.
        seconds: for which the ledger keeps it when no gateway writes any more.
    """
    about = pickle.dumps((stream.config, stream.targets, stream.sinks), pickle.HIGHEST_PROTOCOL)
    return Title(stream.tenant, token, about, seconds)


def settings_of(title: Title) -> tuple[StreamConfig, tuple[str, ...], tuple[str, ...]]:
    """A stream's settings at the start, its targets now, and its sinks.

    The bytes are those of another gateway; bytes from elsewhere could do anything.
    """
    config, targets, sinks = pickle.loads(title.about)  # noqa: S301
    return config, targets, sinks


def entries_of(lines: Sequence[Line]) -> list[Entry]:
    """Lines of the ledger as entries of a log."""
    decoded = ((decode(line.text), line.text) for line in lines)
    return [Entry(event, text) for event, text in decoded if event is not None]


def mirror(record: Record) -> Published:
    """A stream of another gateway, as far as a record tells of it."""
    config, _, _ = settings_of(record.title)
    stream = Published(record.stream, config, record.title.tenant, EventLog())
    update(stream, record)
    return stream


def update(stream: Published, record: Record) -> None:
    """Add what a record tells."""
    _, stream.targets, _ = settings_of(record.title)
    entries = entries_of(record.lines)
    for entry in entries:
        stream.keep(entry.event)
        stream.audio_time = max(stream.audio_time, entry.event.audio_time)
    stream.log.fill(entries, closed=record.closed)


async def follow(stream: Published, keeper: Bookkeeper) -> None:
    """Keep a mirrored stream up to date until it ends, or the ledger has it no more."""
    while not stream.log.closed:
        try:
            record = await keeper.read(stream.id, stream.log.last_seq, WAIT_SECONDS)
        except WorkerLostError:
            await asyncio.sleep(RETRY_SECONDS)
            continue
        if record is None:
            stream.log.fill((), closed=True)
        else:
            update(stream, record)
