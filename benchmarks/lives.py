"""Live streams of a benchmark, and the stages that all of them go through together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu import ScriptedTranslator, sound
from benchmarks.listening import Replayed
from pipeline.batching import Batch, Steps
from pipeline.config import SAMPLE_RATE
from pipeline.speech import SpeechEncoder, SpeechEvent
from pipeline.translation import SpeechTranslator
from pipeline.wire.events import Event, Translation

PIECE = 2_560
"""Samples of one message of a client."""


@dataclass(eq=False)
class Live:
    """One live stream and the work that waits in it."""

    audio: NDArray[np.float32]
    begin: float
    encoder: SpeechEncoder | Replayed
    translator: SpeechTranslator | ScriptedTranslator
    sent: int = 0
    pieces: deque[bytes] = field(default_factory=deque)
    events: deque[SpeechEvent] = field(default_factory=deque)
    latencies: list[float] = field(default_factory=list)

    @property
    def next_arrival(self) -> float:
        """When the next piece has been spoken; never, if none is left."""
        left = self.sent < len(self.audio)
        return self.begin + (self.sent + PIECE) / SAMPLE_RATE if left else float("inf")

    def arrive(self, now: float) -> None:
        """Take in what has been spoken by now."""
        while self.next_arrival <= now:
            self.pieces.append(self.audio[self.sent : self.sent + PIECE].astype("<f4").tobytes())
            self.sent += PIECE

    def note(self, events: Sequence[Event], now: float) -> None:
        """Note when finals came."""
        for event in events:
            if isinstance(event, Translation) and event.final:
                self.latencies.append(now - self.begin - event.end)


class Stage:
    """What one stage of all streams asks for, done in one pass; of each stream one piece at a time.

    Args:
        carry_out: does the work of a pass.
        begin: the work of a stream's next piece; None if none waits.

    Attributes:
        busy: streams whose piece is not done.
        passes: so far.
        works: that they were asked for.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Any]], Sequence[Any]],
        begin: Callable[[Live], Steps[Any, Any, Any] | None],
    ) -> None:
        self.busy: set[Live] = set()
        self.passes = self.works = 0
        self._carry_out, self._begin = carry_out, begin
        self._batch: Batch[Live, Any, Any, Any] = Batch(self._count)

    @classmethod
    def encoding(cls, carry_out: Callable[[Sequence[Any]], Sequence[Any]]) -> Stage:
        """From pieces of audio to speech events."""
        return cls(carry_out, lambda live: live.encoder.steps(live.pieces.popleft()) if live.pieces else None)

    @classmethod
    def decoding(cls, carry_out: Callable[[Sequence[Any]], Sequence[Any]]) -> Stage:
        """From speech events to those for clients."""
        return cls(
            carry_out, lambda live: live.translator.steps(live.events.popleft()) if live.events else None
        )

    def round(self, lives: Sequence[Live]) -> list[tuple[Live, Any]]:
        """Begin what waits, and do a pass; returns what came of the pieces that are done.

        Raises:
            Exception: what went wrong in one of them.
        """
        for live in lives:
            if live not in self.busy and (steps := self._begin(live)) is not None:
                self.busy.add(live)
                self._batch.add(live, steps)
        done = [(live, sound(result)) for live, result in self._batch.step()]
        self.busy.difference_update(live for live, _ in done)
        return done

    def _count(self, works: Sequence[Any]) -> Sequence[Any]:
        self.passes, self.works = self.passes + 1, self.works + len(works)
        return self._carry_out(works)
