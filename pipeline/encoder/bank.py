"""Where the encoder's memory of many streams lies: in rows, so that a batch is gathered and put back at once.

A stream's memory is some forty tensors. To put those of hundreds of streams together one by one, and apart
again behind each step, takes longer than the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.gemma.ahead import array_to_device

State = TypeVar("State")

LEAST_ROWS = 4


class Bank(Generic[State]):
    """Rows for states that have the same structure and shapes.

    Args:
        like: a state of any number of streams, of tensors [B, ...] in dataclasses, tuples and lists.
    """

    def __init__(self, like: State) -> None:
        self._buffers = [tensor.new_zeros((LEAST_ROWS, *tensor.shape[1:])) for tensor in tensors(like)]
        self._structure: State = refilled(like, (buffer[:0] for buffer in self._buffers))
        self._free = list(range(LEAST_ROWS))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return sum(buffer[0].nbytes for buffer in self._buffers)

    def take(self, count: int) -> list[Row]:
        """Rows that are nobody's; each is given back when it is no longer referred to."""
        missing = count - len(self._free)
        if missing > 0:
            had = len(self._buffers[0])
            more = max(missing, had)
            self._buffers = [
                torch.cat([buffer, buffer.new_zeros((more, *buffer.shape[1:]))]) for buffer in self._buffers
            ]
            self._free += range(had, had + more)
        return [Row(self, self._free.pop()) for _ in range(count)]

    def release(self, index: int) -> None:
        """Have the row to give away again."""
        self._free.append(index)

    def read(self, rows: Sequence[Row]) -> State:
        """A state of as many streams, copied from their rows."""
        at = self._at(rows)
        read: State = refilled(self._structure, (buffer.index_select(0, at) for buffer in self._buffers))
        return read

    def write(self, rows: Sequence[Row], state: State) -> None:
        """Replace what is in some rows by a state of as many streams."""
        at = self._at(rows)
        for buffer, tensor in zip(self._buffers, tensors(state), strict=True):
            buffer.index_copy_(0, at, tensor)

    def _at(self, rows: Sequence[Row]) -> Tensor:
        return array_to_device(np.array([row.index for row in rows]), self._buffers[0].device)


@dataclass(eq=False)
class Row:
    """One row of a bank, as long as it is referred to."""

    bank: Bank[Any]
    index: int

    def __del__(self) -> None:
        self.bank.release(self.index)


def tensors(state: Any) -> Iterator[Tensor]:
    """Those of a structure, always in the same order."""
    if isinstance(state, Tensor):
        yield state
    elif is_dataclass(state):
        for field in fields(state):
            yield from tensors(getattr(state, field.name))
    elif isinstance(state, (tuple, list)):
        for item in state:
            yield from tensors(item)


def refilled(state: Any, others: Iterator[Tensor]) -> Any:
    """The same structure with other tensors."""
    if isinstance(state, Tensor):
        return next(others)
    if is_dataclass(state) and not isinstance(state, type):
        return replace(state, **{f.name: refilled(getattr(state, f.name), others) for f in fields(state)})
    if isinstance(state, (tuple, list)):
        return type(state)(refilled(item, others) for item in state)
    return state


def stacked(states: Sequence[State]) -> State:
    """One state of many streams from those of each."""
    together: State = refilled(states[0], map(torch.cat, zip(*map(tensors, states), strict=True)))
    return together
