"""What the training loop is fed: speech as it is synthesised, and batches drawn ahead from it."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from pipeline.training.batches import Batch, Batcher
from pipeline.training.synthesis import Chunk, chunk_path, present

EARLY = 200
"""Chunks that are read from their files before they are taken in; 3 MB each."""
POLL_SECONDS = 0.5
"""Between two looks at the folder for new chunks."""
PREFETCH = 4
"""Batches that each process draws ahead."""


class SpeechPool:
    """All speech made so far, in one int16 buffer on the device.

    Args:
        folder: where chunks appear.
        drawing: told of every chunk.
        capacity: samples that the buffer holds; what does not fit is left out.
        device: of the buffer.
        making: tells whether chunks are still being made.
        most: chunks that there may be; they are taken in as they come, some engines being faster.
    """

    def __init__(
        self,
        folder: Path,
        drawing: Drawing,
        capacity: int,
        device: torch.device,
        making: Callable[[], bool],
        *,
        most: int,
    ) -> None:
        self.buffer = torch.zeros(capacity, dtype=torch.int16, device=device)
        self.filled = 0
        self.chunks = 0
        self._folder = folder
        self._drawing = drawing
        self._making = making
        self._most = most
        self._full = False
        # Files are read beside the training; the device is used by its own thread alone.
        self._early: queue.Queue[Chunk | Exception] = queue.Queue(EARLY)
        self._closed = threading.Event()
        self._loader = threading.Thread(target=self._load, name="speech", daemon=True)
        self._loader.start()

    def read(self, at_least: int = 0) -> None:
        """Take in the chunks that are ready; wait until there are ``at_least`` of them.

        Raises:
            RuntimeError: so many are not there and nobody makes them any more, or will not be there.
            ValueError: the buffer is too small for the first of them.
        """
        if at_least > self._most:
            raise RuntimeError(f"there are {self._most} chunks at most, not {at_least}")
        while not self._full and self.chunks < self._most:
            # Asked first: what was made before the maker ended is there to be loaded.
            ended = not self._making()
            missing = self.chunks < at_least
            try:
                chunk = self._early.get(missing, timeout=1)
            except queue.Empty:
                if not missing:
                    return
                if ended and len(present(self._folder, self._most)) == self.chunks:
                    raise RuntimeError(
                        f"synthesis ended with {self.chunks} chunks in {self._folder}, not {at_least}"
                    ) from None
                continue
            if isinstance(chunk, Exception):
                raise chunk
            if self.filled + len(chunk.pcm) + 1 > len(self.buffer):
                if not self.chunks:
                    raise ValueError(f"{len(self.buffer)} samples are too few for a chunk of speech")
                self._full = True
                self.close()
                return
            # A copy: what a file was read into is read-only.
            pcm = torch.from_numpy(np.array(chunk.pcm))
            self.buffer[self.filled : self.filled + len(pcm)] = pcm.to(self.buffer.device)
            self._drawing.add(chunk, self.filled)
            self.filled += len(pcm)
            self.chunks += 1

    def close(self) -> None:
        """Read no more files."""
        self._closed.set()
        self._loader.join()

    def _load(self) -> None:
        for path in self._coming():
            try:
                loaded: Chunk | Exception = Chunk.load(path)
            except Exception as error:
                loaded = error
            while True:
                try:
                    self._early.put(loaded, timeout=0.2)
                    break
                except queue.Full:
                    if self._closed.is_set():
                        return

    def _coming(self) -> Iterator[Path]:
        """Files of chunks, each once it is there, until the pool is closed."""
        taken: set[int] = set()
        while len(taken) < self._most:
            new = [number for number in present(self._folder, self._most) if number not in taken]
            for number in new:
                yield chunk_path(self._folder, number)
            taken.update(new)
            # Not at once: whoever reads a folder of thousands keeps the training from its own work.
            if self._closed.wait(POLL_SECONDS):
                return


class Drawing:
    """Batches drawn ahead by processes of their own, which learn of chunks as they come.

    Args:
        batchers: one per process; they differ in their seeds.
        seed: decides the order of the buckets, the same for all replicas of a model: a step takes as long as
            the slowest of them.
    """

    def __init__(self, batchers: Sequence[Batcher], seed: int) -> None:
        # Not forked from this one, which uses the device; nor spawned, where each imports torch in its turn.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._random = Random(seed)
        self._shares = [bucket.share for bucket in batchers[0].buckets]
        self._asked = self._given = 0
        self._early: dict[int, tuple[int, Batch]] = {}
        self._wanted: multiprocessing.Queue[tuple[int, int]] = context.Queue()
        self._ready: multiprocessing.Queue[tuple[int, int, Batch]] = context.Queue()
        self._news = [context.Queue() for _ in batchers]
        self._processes = [
            context.Process(
                target=_draw,
                # The text takes seconds to unpickle; no process waits for another's.
                args=(pickle.dumps(batcher), news, self._wanted, self._ready),
                daemon=True,
            )
            for batcher, news in zip(batchers, self._news, strict=True)
        ]
        for process in self._processes:
            process.start()
        for _ in range(PREFETCH * len(batchers)):
            self._ask()

    def add(self, chunk: Chunk, offset: int) -> None:
        """See :meth:`Batcher.add`."""
        for news in self._news:
            news.put((dataclasses.replace(chunk, pcm=chunk.pcm[:0]), offset))

    def next(self) -> tuple[int, Batch]:
        """The next batch and which bucket it is of.

        Raises:
            RuntimeError: a process that draws has died.
        """
        self._ask()
        while self._given not in self._early:
            try:
                number, index, batch = self._ready.get(timeout=1)
            except queue.Empty:
                if not all(process.is_alive() for process in self._processes):
                    raise RuntimeError("a process that draws batches has died") from None
            else:
                self._early[number] = index, batch
        self._given += 1
        return self._early.pop(self._given - 1)

    def close(self) -> None:
        """End the processes."""
        for news in (*self._news, self._wanted):
            # What nobody will read any more must not keep this process from ending.
            news.cancel_join_thread()
        for process in self._processes:
            process.terminate()
            process.join()

    def _ask(self) -> None:
        self._wanted.put((self._asked, self._random.choices(range(len(self._shares)), self._shares)[0]))
        self._asked += 1


def _draw(pickled: bytes, news: Any, wanted: Any, ready: Any) -> None:
    torch.set_num_threads(1)
    batcher: Batcher = pickle.loads(pickled)  # noqa: S301 (of this program)
    while True:
        number, index = wanted.get()
        while batcher.chunks == 0 or not news.empty():
            batcher.add(*news.get())
        ready.put((number, index, batcher.batch(index)))
