"""Where the encoder's memory of many streams lies: in rows, so that a batch is gathered and put back at once.

A stream's memory is some forty tensors. To put those of hundreds of streams together one by one, and apart
again behind each step, takes longer than the step. What a row holds stays as it is as long as anybody refers
to it: a step writes into other rows than it reads, and a copy of a stream is another reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

State = TypeVar("State")

LEAST_ROWS = 4

SPARE = 0
"""A row that is nobody's: what fills a batch up reads it and writes it."""


class Bank(Generic[State]):
    """Rows for states that have the same structure and shapes.

    Args:
        like: a state of any number of streams, of tensors [B, ...] in dataclasses, tuples and lists.
        rows: how many to begin with.
    """

    def __init__(self, like: State, rows: int = LEAST_ROWS) -> None:
        self._buffers = [tensor.new_zeros((rows, *tensor.shape[1:])) for tensor in tensors(like)]
        self._structure: State = refilled(like, (buffer[:0] for buffer in self._buffers))
        self._free = [row for row in range(rows) if row != SPARE]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return sum(buffer[0].nbytes for buffer in self._buffers)

    @property
    def rows(self) -> int:
        """How many there are; when they become more, all of them move."""
        return len(self._buffers[0])

    def reserve(self, count: int) -> None:
        """Have at least so many rows that are nobody's."""
        missing = count - len(self._free)
        if missing > 0:
            had = self.rows
            more = max(missing, had)
            self._buffers = [
                torch.cat([buffer, buffer.new_zeros((more, *buffer.shape[1:]))]) for buffer in self._buffers
            ]
            self._free += range(had, had + more)

    def take(self, count: int) -> list[Row]:
        """Rows that are nobody's; each is given back when it is no longer referred to."""
        self.reserve(count)
        return [Row(self, self._free.pop()) for _ in range(count)]

    def release(self, index: int) -> None:
        """Have the row to give away again."""
        self._free.append(index)

    def read(self, rows: Sequence[Row]) -> State:
        """A state of as many streams, copied from their rows."""
        return self.read_at(self._at(rows))

    def read_at(self, at: Tensor) -> State:
        """The same, from rows by their indices, int64 [B] on the bank's device."""
        read: State = refilled(self._structure, (buffer.index_select(0, at) for buffer in self._buffers))
        return read

    def write(self, rows: Sequence[Row], state: State) -> None:
        """Replace what is in some rows by a state of as many streams."""
        self.write_at(self._at(rows), state)

    def write_at(self, at: Tensor, state: State) -> None:
        """The same, to rows by their indices."""
        for buffer, tensor in zip(self._buffers, tensors(state), strict=True):
            buffer.index_copy_(0, at, tensor)

    def _at(self, rows: Sequence[Row]) -> Tensor:
        return torch.tensor([row.index for row in rows], device=self._buffers[0].device)


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


def expanded(state: State, count: int) -> State:
    """The state of so many streams that are all in the state of one; it shares its memory."""
    many: State = refilled(state, (tensor.expand(count, *tensor.shape[1:]) for tensor in tensors(state)))
    return many
