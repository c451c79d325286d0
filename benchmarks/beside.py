"""Live streams by the clock on the wall: encoder and decoder in threads, beside each other on one GPU.

In a service they are processes of their own, which share a GPU where there is but one. Threads share Python
besides, so what is measured here is not better than that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from pipeline.batching import Batch
from pipeline.model import Gemma3n

if TYPE_CHECKING:
    from benchmarks.streams import Live


@dataclass
class Worked:
    """What it took.

    Attributes:
        encoding_s: seconds in which the encoder worked.
        decoding_s: seconds in which the decoder worked.
        rounds: of the decoder.
        segments: that it was asked for.
        longest_s: seconds of its longest round.
    """

    encoding_s: float = 0.0
    decoding_s: float = 0.0
    rounds: int = 0
    segments: int = 0
    longest_s: float = 0.0


@dataclass
class _Stage:
    """What both threads know.

    Attributes:
        lives: the streams.
        begun: when the first of them began, by the clock on the wall.
        worked: what it took so far.
        news: whether the decoder has something to look at.
        over: whether nothing more will be encoded.
        failed: whether the decoder has ended before that.
    """

    lives: Sequence[Live]
    begun: float = field(default_factory=time.perf_counter)
    worked: Worked = field(default_factory=Worked)
    news: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    failed: threading.Event = field(default_factory=threading.Event)

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.begun


def run(model: Gemma3n, lives: Sequence[Live]) -> Worked:
    """Have streams spoken as time goes by, until all that they said has been translated.

    Args:
        model: encodes and decodes.
        lives: the streams; when finals came is noted in them.
    """
    if torch.cuda.is_available():
        # What was prepared on the one stream is used on the other.
        torch.cuda.synchronize()
    stage = _Stage(lives)
    with ThreadPoolExecutor(1) as beside:
        encoded = beside.submit(_encode, model, stage)
        try:
            _decode(model, stage)
        except BaseException:
            stage.failed.set()
            raise
        encoded.result()
    return stage.worked


def _encode(model: Gemma3n, stage: _Stage) -> None:
    try:
        # On a GPU its kernels are to find room beside those of the decoder, and not to wait for them.
        with torch.cuda.stream(torch.cuda.Stream()) if torch.cuda.is_available() else nullcontext():  # type: ignore[no-untyped-call]
            _keep_encoding(model, stage)
    finally:
        stage.over.set()
        stage.news.set()


def _keep_encoding(model: Gemma3n, stage: _Stage) -> None:
    batch: Batch[Live, Any, Any, Any] = Batch(model.ears.encode)
    encoding: set[Live] = set()
    while not stage.failed.is_set():
        for live in stage.lives:
            live.arrive(stage.now())
        begun = time.perf_counter()
        for live in stage.lives:
            if live.pieces and live not in encoding:
                encoding.add(live)
                batch.add(live, live.encoder.steps(live.pieces.popleft()))
        for live, heard in batch.step():
            encoding.remove(live)
            live.events += sound(heard)
            stage.news.set()
        stage.worked.encoding_s += time.perf_counter() - begun
        if not (encoding or any(live.pieces for live in stage.lives)):
            arrival = min(live.next_arrival for live in stage.lives)
            if arrival == float("inf"):
                return
            # Until somebody has said more.
            time.sleep(max(0.0, arrival - stage.now()))


def _decode(model: Gemma3n, stage: _Stage) -> None:
    worked = stage.worked

    def step(works: Sequence[Any]) -> list[Any]:
        worked.rounds, worked.segments = worked.rounds + 1, worked.segments + len(works)
        return model.step(works)

    batch: Batch[Live, Any, Any, Any] = Batch(step)
    decoding: set[Live] = set()
    while True:
        # In this order, and both before looking: what comes after that is news again.
        stage.news.clear()
        over = stage.over.is_set()
        begun = time.perf_counter()
        for live in stage.lives:
            if live.events and live not in decoding:
                decoding.add(live)
                batch.add(live, live.translator.steps(live.events.popleft()))
        if not decoding:
            if over:
                return
            stage.news.wait()
            continue
        for live, events in batch.step():
            decoding.remove(live)
            live.note(sound(events), stage.now())
        took = time.perf_counter() - begun
        worked.decoding_s, worked.longest_s = worked.decoding_s + took, max(worked.longest_s, took)


def sound(result: Any) -> Any:
    """A result, or the error that came instead, raised."""
    if isinstance(result, Exception):
        raise result
    return result
