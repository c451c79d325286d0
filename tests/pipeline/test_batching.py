"""Generators run beside each other as they run alone."""

from __future__ import annotations

import pytest

from pipeline.batching import Batch, answer_tuples, run_alone, together


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
