"""What stands between audio, or between speech events, on a stream's way through the gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias, cast

from pipeline.wire import commands


@dataclass(frozen=True)
class Heard:
    """All audio before ``audio_time`` is in the speech events that stand before this."""

    audio_time: float


@dataclass(frozen=True)
class Point:
    """Where another gateway can go on: behind so many frames of audio, with these checkpoints of workers.

    It stands behind the speech events that those frames came to, without the decoder's checkpoint.
    """

    frames: int = 0
    encoder: object | None = None
    decoder: object | None = None


Control: TypeAlias = commands.Flush | commands.Mark | commands.Update | commands.Stop
Marker: TypeAlias = Control | Heard | Point
MARKERS = (commands.Flush, commands.Mark, commands.Update, commands.Stop, Heard, Point)


def runs(items: Iterable[object]) -> Iterator[tuple[Any, ...] | Marker]:
    """Commands and other markers one by one, and what stands between two of them as one tuple."""
    for marker, group in groupby(items, lambda item: isinstance(item, MARKERS)):
        if marker:
            yield from cast(Iterator[Marker], group)
        else:
            yield tuple(group)
