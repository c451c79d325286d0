"""Rows of a bank: what was written is read, whoever came and went."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch

from pipeline.encoder.bank import Bank, Row, refilled, stacked, tensors


@dataclass
class Inner:
    sums: torch.Tensor


@dataclass
class State:
    tails: tuple[torch.Tensor, torch.Tensor]
    inner: list[Inner]


def state(count: int) -> State:
    """Of so many streams, with values all of its own."""
    return State(
        (torch.randn(count, 3, 2), torch.randint(0, 99, (count,))),
        [Inner(torch.randn(count, 5, dtype=torch.float64)) for _ in range(2)],
    )


def same(one: State, other: State) -> bool:
    return all(map(torch.equal, tensors(one), tensors(other)))


def test_streams_that_come_and_go_read_what_they_wrote():
    bank = Bank(state(1))
    held: list[tuple[Row, State]] = []
    seen = set()
    for _ in range(60):
        rows = bank.take(random.randint(1, 5))
        held += [(row, state(1)) for row in rows]
        chosen = random.sample(held, random.randint(1, len(held)))
        bank.write([row for row, _ in chosen], stacked([own for _, own in chosen]))
        written = [row for row, _ in chosen]
        assert same(bank.read(written), stacked([own for _, own in chosen]))
        # Others keep what they have: only rows that were written are compared, at any later time.
        seen.update(row.index for row in written)
        held = [one for one in held if one in chosen]
        random.shuffle(held)
        del held[8:], rows, chosen, written
        for row, own in held:
            assert same(bank.read([row]), own)
    assert len({row.index for row, _ in held}) == len(held)
    assert max(seen) < 64, "rows are given out again"


def test_what_is_read_is_a_copy():
    bank = Bank(state(2))
    (row,) = bank.take(1)
    own = state(1)
    bank.write([row], own)
    bank.read([row]).inner[0].sums.zero_()

    assert same(bank.read([row]), own)
    assert bank.row_bytes == sum(tensor.nbytes for tensor in tensors(own))


def test_a_structure_is_filled_in_the_order_in_which_it_is_read():
    one, other = state(3), state(3)

    assert same(refilled(one, tensors(other)), other)
    assert not same(one, other)
    assert same(
        stacked([one, other]), refilled(one, map(torch.cat, zip(tensors(one), tensors(other), strict=True)))
    )


def test_shapes_that_differ_do_not_fit():
    bank = Bank(state(1))
    wide = state(1)
    wide.inner[1].sums = torch.randn(1, 6, dtype=torch.float64)
    with pytest.raises((RuntimeError, IndexError)):
        bank.write(bank.take(1), wide)
