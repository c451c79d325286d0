"""Work of many streams in one batch.

What a stream does is a generator: it yields each piece of work that the model has to do for it, receives
what came of it, and returns its result. So the same code runs alone, one piece of work after the other, or
beside others whose work is done in the same pass, joining and leaving at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from pipeline.errors import ShortMemoryError

Work = TypeVar("Work")
Answer = TypeVar("Answer")
Result = TypeVar("Result")
Key = TypeVar("Key")

Steps: TypeAlias = Generator[Work, Answer, Result]
"""Yields work, receives answers, returns a result."""

CarryOut: TypeAlias = Callable[[Sequence[Work]], Sequence[Answer | Exception]]
"""Does the work of a batch; an error in place of an answer is that piece's alone."""


_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
"""What torch's errors say: of CUDA's memory, of main memory, and of cuBLAS' and cuDNN's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether something failed for want of memory, the machine's or an accelerator's."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in _NO_MEMORY)
    )


def in_parts(
    works: Sequence[Work], carry_out: Callable[[Sequence[Work]], Sequence[Answer]]
) -> list[Answer | Exception]:
    """Do work in one pass, or where there is no memory for it in two of half the size, and so on.

    Args:
        works: at least one.
        carry_out: does them; when it runs out of memory it must have left everything as it was.

    Returns:
        For each the answer; or a :class:`~pipeline.errors.ShortMemoryError` if it found no memory even alone.
    """
    try:
        return list(carry_out(works))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Behind the handler: as long as the error is held, so are its frames and whatever they had allocated.
    if len(works) == 1:
        return [ShortMemoryError("there is not enough memory to go on with this stream")]
    half = len(works) // 2
    return [*in_parts(works[:half], carry_out), *in_parts(works[half:], carry_out)]


def run_alone(steps: Steps[Work, Answer, Result], carry_out: CarryOut[Work, Answer]) -> Result:
    """Run to the end; what was wrong with a piece of work is raised where it was asked for."""
    try:
        work = next(steps)
        while True:
            (answer,) = carry_out([work])
            work = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as end:
        result: Result = end.value
        return result


def together(generators: Sequence[Steps[Any, Any, Result]]) -> Steps[Any, Any, list[Result]]:
    """Run generators of one stream beside each other; their work is yielded as a tuple, one alone as it is.

    They may yield tuples themselves, and receive lists of answers. An error in place of an answer ends all.

    Returns:
        Their results, in order.
    """
    results: dict[int, Result] = {}
    waiting: dict[int, Any] = {}

    def go_on(at: int, answer: Any) -> None:
        try:
            waiting[at] = generators[at].send(answer)
        except StopIteration as end:
            waiting.pop(at, None)
            results[at] = end.value

    for at in range(len(generators)):
        go_on(at, None)
    while waiting:
        works = dict(waiting)
        if len(works) == 1:
            ((at, work),) = works.items()
            go_on(at, (yield work))
            continue
        answers = iter((yield tuple(one for work in works.values() for one in _parts(work))))
        for at, work in works.items():
            own = [next(answers) for _ in _parts(work)]
            go_on(at, own if isinstance(work, tuple) else own[0])
    return [results[at] for at in range(len(generators))]


def _parts(work: Work | tuple[Work, ...]) -> tuple[Work, ...]:
    return work if isinstance(work, tuple) else (work,)


def answer_tuples(works: Sequence[Work | tuple[Work, ...]], carry_out: CarryOut[Work, Answer]) -> list[Any]:
    """Do work that :func:`together` may have put into tuples.

    Returns:
        For each the answer; for a tuple a list of answers, or the first error among them.
    """
    parts = [_parts(work) for work in works]
    done = iter(carry_out([one for part in parts for one in part]))
    answers: list[Any] = []
    for work, part in zip(works, parts, strict=True):
        answer = [next(done) for _ in part]
        failed = next((one for one in answer if isinstance(one, Exception)), None)
        answers.append(failed or (answer if isinstance(work, tuple) else answer[0]))
    return answers


class Batch(Generic[Key, Work, Answer, Result]):
    """Runs many generators beside each other.

    Args:
        carry_out: does their work.
    """

    def __init__(self, carry_out: CarryOut[Work, Answer]) -> None:
        self._carry_out = carry_out
        # Generators and the work that each waits for.
        self._waiting: dict[Key, tuple[Steps[Work, Answer, Result], Work]] = {}
        # Results that have not been handed out.
        self._done: list[tuple[Key, Result | Exception]] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._done)

    def add(self, key: Key, steps: Steps[Work, Answer, Result]) -> None:
        """Start a generator; ``key`` is that of no other that runs."""
        self._go_on(key, steps, lambda: next(steps))

    def step(self) -> list[tuple[Key, Result | Exception]]:
        """Do the work that all wait for in one pass.

        Returns:
            The keys of those that have come to their end, each with its result, or with the error that it
            ended with and that touched no other.
        """
        if self._waiting:
            waiting, self._waiting = self._waiting, {}
            answers = self._answers([work for _, work in waiting.values()])
            for (key, (steps, _)), answer in zip(waiting.items(), answers, strict=True):
                if isinstance(answer, Exception):
                    self._go_on(key, steps, lambda s=steps, a=answer: s.throw(a))  # type: ignore[misc]
                else:
                    self._go_on(key, steps, lambda s=steps, a=answer: s.send(a))  # type: ignore[misc]
        done, self._done = self._done, []
        return done

    def _answers(self, works: list[Work]) -> Sequence[Answer | Exception]:
        try:
            return self._carry_out(works)
        except Exception as error:
            return [error] * len(works)

    def _go_on(self, key: Key, steps: Steps[Work, Answer, Result], go_on: Callable[[], Work]) -> None:
        try:
            self._waiting[key] = (steps, go_on())
        except StopIteration as end:
            self._done.append((key, end.value))
        except Exception as error:
            self._done.append((key, error))
