"""Generators run beside each other as they run alone."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Batch, answer_tuples, in_parts, is_out_of_memory, run_alone, together
from pipeline.errors import ShortMemoryError


def count(start, steps):
    """Asks ``steps`` times for the double of a number."""
    for _ in range(steps):
        start = yield start
    return start


def double(works):
    return [ValueError(f"{work} is unlucky") if work == 13 else 2 * work for work in works]


def finish(batch):
    ended = {}
    while len(batch):
        ended.update(batch.step())
    return ended


def test_alone_and_together_come_to_the_same():
    batch, alone = Batch(double), {}
    for number in range(1, 6):
        batch.add(number, count(number, number))
        alone[number] = run_alone(count(number, number), double)

    assert finish(batch) == alone


def test_each_pass_has_one_piece_of_work_of_each():
    passes = []
    batch = Batch(lambda works: passes.append(list(works)) or double(works))
    batch.add("a", count(1, 1))
    batch.add("b", count(10, 3))
    assert batch.step() == [("a", 2)]
    batch.add("c", count(100, 1))
    assert finish(batch) == {"b": 80, "c": 200}

    assert passes == [[1, 10], [20, 100], [40]]


def test_tuples_beside_each_other_are_done_in_one_pass():
    """And each generator receives what it would have received alone: a list for a tuple, else an answer."""

    def pairs(start, steps):
        for _ in range(steps):
            start = sum((yield (start, start + 1)))
        return start

    def work():
        return [pairs(1, 2), count(10, 3), pairs(5, 1)]

    passes = []

    def carry_out(works):
        passes.append(list(works))
        return answer_tuples(works, double)

    alone = [run_alone(one, lambda works: answer_tuples(works, double)) for one in work()]

    assert run_alone(together(work()), carry_out) == alone
    assert [len(one) if isinstance(one, tuple) else 0 for (one,) in passes] == [5, 3, 0]


def test_what_needs_no_work_ends_without_a_pass():
    batch = Batch(lambda works: pytest.fail("nothing was asked for"))
    batch.add("a", count(5, 0))

    assert batch.step() == [("a", 5)]
    assert len(batch) == 0


def test_an_error_of_one_piece_of_work_is_raised_where_it_was_asked_for():
    def careful():
        try:
            yield 13
        except ValueError as error:
            return (yield f"{error}, ")

    batch = Batch(double)
    batch.add("careful", careful())
    batch.add("careless", count(13, 1))
    batch.add("lucky", count(1, 1))
    ended = finish(batch)

    assert ended["careful"] == run_alone(careful(), double) == "13 is unlucky, 13 is unlucky, "
    assert str(ended["careless"]) == "13 is unlucky"
    assert ended["lucky"] == 2
    with pytest.raises(ValueError, match="unlucky"):
        run_alone(count(13, 1), double)


def test_a_generator_that_fails_touches_no_other():
    def failing():
        yield 1
        raise RuntimeError("poisoned")

    batch = Batch(double)
    batch.add("poisoned", failing())
    batch.add("sound", count(1, 2))
    ended = finish(batch)

    assert isinstance(ended["poisoned"], RuntimeError)
    assert ended["sound"] == 4


def test_a_pass_that_fails_is_told_to_all_of_it_and_to_nobody_else():
    def broken(works):
        if len(works) > 1:
            raise MemoryError("no room")
        return double(works)

    batch = Batch(broken)
    batch.add("a", count(1, 1))
    batch.add("b", count(1, 1))
    ended = finish(batch)
    batch.add("c", count(1, 1))

    assert [type(ended[key]) for key in "ab"] == [MemoryError, MemoryError]
    assert finish(batch) == {"c": 2}


def double_all(works):
    return answer_tuples(works, double)


def test_generators_of_one_stream_work_at_once():
    """As many passes as the longest takes; the last one left is alone in its own."""
    asked = []

    def carry_out(works):
        asked.extend(works)
        return double_all(works)

    results = run_alone(together([count(1, 3), count(2, 1), count(3, 0)]), carry_out)

    assert results == [8, 4, 3]
    assert asked == [(1, 2), 2, 4]


def test_nothing_together_is_nothing():
    assert run_alone(together([]), double_all) == []


def test_an_error_ends_all_of_a_stream_and_of_no_other():
    batch = Batch(double_all)
    batch.add("sick", together([count(1, 1), count(13, 1)]))
    batch.add("sound", together([count(1, 1), count(2, 1)]))
    ended = finish(batch)

    assert isinstance(ended["sick"], ValueError)
    assert ended["sound"] == [2, 4]


def scarce(room, greedy=()):
    """Doubles numbers where there is memory for ``room`` of them, and for ``greedy`` ones never."""
    passes = []

    def carry_out(works):
        passes.append(len(works))
        if len(works) > room or set(greedy) & set(works):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return double(works)

    return carry_out, passes


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 40), st.sets(st.integers(0, 12)))
def test_where_memory_runs_out_passes_get_smaller_and_who_wants_too_much_fails_alone(works, room, greedy):
    carry_out, passes = scarce(room, greedy)
    answers = in_parts(works, carry_out)

    for work, answer in zip(works, answers, strict=True):
        assert isinstance(answer, ShortMemoryError) if work in greedy else answer == 2 * work
    assert len(passes) < 2 * len(works)


def test_passes_that_fit_are_done_once_and_no_smaller_than_needed():
    carry_out, passes = scarce(4)

    assert in_parts(range(8), carry_out) == double(range(8))
    assert passes == [8, 4, 4]


def test_other_errors_are_not_tried_again():
    passes = []

    def broken(works):
        passes.append(len(works))
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="assert"):
        in_parts([1, 2], broken)
    assert passes == [2]


def test_what_a_failed_pass_had_allocated_is_given_back_before_the_next():
    alive = weakref.WeakSet()

    class Allocation:
        pass

    def carry_out(works):
        assert not alive
        held = Allocation()
        alive.add(held)
        if len(works) > 1:
            raise MemoryError
        return double(works)

    assert in_parts([1, 2, 3], carry_out) == [2, 4, 6]


@pytest.mark.parametrize(
    "fail",
    [
        lambda: torch.empty(1 << 60),
        lambda: np.empty(1 << 57),
        lambda: bytearray(1 << 62),
    ],
)
def test_real_allocators_are_understood(fail):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        fail()
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
