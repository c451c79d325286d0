"""Work by processes that may die: none is waited for that will not come, and no other's work is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.crews import Crew, work_off


def begin(folder: Path) -> Callable[[int | str], None]:
    """Of a worker that leaves a file for every number, and that words make fail."""

    def do(task: int | str) -> None:
        match task:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "raise":
                raise OSError("the voice is not installed")
        (folder / str(task)).touch(exist_ok=False)

    return do


def fail_to_begin() -> Callable[[int], None]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@settings(max_examples=8, deadline=None)
@given(counts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=3))
def test_every_task_is_done_once_by_those_whose_it_is(counts: list[tuple[int, int]], tmp_path_factory):
    folders = [tmp_path_factory.mktemp("crew") for _ in counts]
    work_off(
        [
            Crew(range(tasks), processes, partial(begin, folder))
            for folder, (tasks, processes) in zip(folders, counts, strict=True)
        ]
    )

    for folder, (tasks, processes) in zip(folders, counts, strict=True):
        assert len(list(folder.iterdir())) == (tasks if processes else 0)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_task_at_which_a_process_dies_is_given_up_and_no_other(processes: int, tmp_path: Path, capsys):
    tasks = [0, "crash", 1, "crash", "crash", 2]
    work_off([Crew(tasks, processes, partial(begin, tmp_path))])

    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2"}
    told = capsys.readouterr().err
    assert told.count(f"ended by signal {signal.SIGSEGV:d}; what it was at is given up") == 3


def test_what_a_task_raises_is_raised_and_ends_the_others(tmp_path: Path):
    endless = Crew(range(1_000_000), 1, partial(begin, tmp_path))
    with pytest.raises(OSError, match="the voice is not installed"):
        work_off([endless, Crew(["raise"], 1, partial(begin, tmp_path))])

    assert not multiprocessing.active_children()


def test_processes_that_die_before_they_begin_are_not_replaced_for_ever():
    with pytest.raises(RuntimeError, match="ended by signal 9 as they begin"):
        work_off([Crew(range(3), 2, fail_to_begin)])

    assert not multiprocessing.active_children()
