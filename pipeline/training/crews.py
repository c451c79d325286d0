"""Work by processes of which any may die: speech engines are C libraries, and libraries crash."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")


@dataclass(frozen=True)
class Crew(Generic[Task]):
    """Processes that do the tasks of one list between them.

    Args:
        tasks: each goes, in their order, to whoever is free.
        processes: how many.
        begin: called in each of them; what it returns does a task. It is pickled, as the tasks are.
    """

    tasks: Sequence[Task]
    processes: int
    begin: Callable[[], Callable[[Task], None]]


class _Shift:
    """A crew at work.

    Args:
        crew: whose processes are started.
        context: how.
    """

    def __init__(self, crew: Crew[Any], context: Any) -> None:
        self._crew, self._context = crew, context
        self._taken = context.Value("q", 0)
        self._died = 0
        self.members = [self._member() for _ in range(min(crew.processes, len(crew.tasks)))]

    def _member(self) -> tuple[Any, Connection]:
        failure, failing = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_work, args=(self._crew, self._taken, failing), daemon=True)
        process.start()
        failing.close()
        return process, failure

    def let_go(self) -> None:
        """See to those that have ended: raise what one of them raised, replace those that were killed."""
        for process, failure in [member for member in self.members if not member[0].is_alive()]:
            self.members.remove((process, failure))
            with failure:
                if process.exitcode > 0:
                    raise failure.recv()
            if process.exitcode < 0:
                self._died += 1
                if self._died > self._taken.value:
                    raise RuntimeError(f"processes are ended by signal {-process.exitcode} as they begin")
                print(
                    f"a process was ended by signal {-process.exitcode}; what it was at is given up",
                    file=sys.stderr,
                )
                self.members.append(self._member())


def work_off(crews: Sequence[Crew[Any]], preload: Sequence[str] = ()) -> None:
    """Do all tasks; no process outlives the call.

    A process that a signal ends is replaced. Its task is not tried again, for it would end the next one too.

    Args:
        crews: work beside each other.
        preload: modules that are imported once, in the process that all are forked from.

    Raises:
        Exception: what a task raised.
        RuntimeError: processes are killed before they take a task.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    shifts: list[_Shift] = []
    try:
        for crew in crews:
            shifts.append(_Shift(crew, context))
        while members := [member for shift in shifts for member in shift.members]:
            wait([process.sentinel for process, _ in members])
            for shift in shifts:
                shift.let_go()
    finally:
        left = [process for shift in shifts for process, _ in shift.members]
        for process in left:
            process.terminate()
        for process in left:
            process.join()


def _work(crew: Crew[Any], taken: Any, failing: Connection) -> None:
    try:
        do = crew.begin()
        while True:
            with taken:
                at = taken.value
                taken.value += 1
            if at >= len(crew.tasks):
                return
            do(crew.tasks[at])
    except Exception as error:
        failing.send(error)
        raise
