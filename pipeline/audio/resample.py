"""Any sample rate to 16 kHz, for a stream that may be cut anywhere."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.config import SAMPLE_RATE

MEMORY = 0.25
"""Seconds of input, at least, that reach back further than the filter does."""


class Resampler:
    """Resamples a stream with libsoxr at its high quality (a linear-phase filter, 20 bits).

    What comes out is bit for bit the same however the input was cut, and how much has come out depends on how
    much went in alone. The filter holds back 37 to 115 ms of audio, depending on the rate; at 16 kHz samples
    pass through as they are.

    It can be pickled; the copy goes on with the same samples up to float32 rounding.

    Args:
        rate: samples per second of the input.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._begin()

    def _begin(self) -> None:
        self._stream = None if self._rate == SAMPLE_RATE else _new_stream(self._rate)
        # Samples that have come in and gone out, and those between the two that libsoxr has given already:
        # it works in blocks, and when one is complete depends on where its stream began.
        self._in = self._out = 0
        self._ready = np.empty(0, dtype=np.float32)
        # The last of the input, from a sample on that coincides with one of the output.
        self._recent = np.empty(0, dtype=np.float32)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add samples and return what became certain.

        Args:
            samples: float32 ``[samples]`` at the input rate.

        Returns:
            Float32 ``[samples]`` at 16 kHz.
        """
        if self._stream is None:
            return samples
        self._remember(samples)
        self._ready = np.concatenate([self._ready, self._stream.resample_chunk(samples)])
        count = max(0, self._in * SAMPLE_RATE // self._rate - _delay(self._rate) - self._out)
        self._out += count
        certain, self._ready = self._ready[:count], self._ready[count:].copy()
        return certain

    def flush(self) -> NDArray[np.float32]:
        """End the audio and return the rest, float32 ``[samples]``; afterwards the resampler is as new."""
        empty = np.empty(0, dtype=np.float32)
        if self._stream is None:
            return empty
        rest = np.concatenate([self._ready, self._stream.resample_chunk(empty, last=True)])
        self._begin()
        return rest

    def _remember(self, samples: NDArray[np.float32]) -> None:
        self._in += len(samples)
        recent = np.concatenate([self._recent, samples])
        period = self._rate // math.gcd(self._rate, SAMPLE_RATE)
        old = max(0, len(recent) - math.ceil(MEMORY * self._rate)) // period * period
        self._recent = recent[old:].copy()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_stream", "_ready")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        taken_in, given_out, recent = state["_in"], state["_out"], state["_recent"]
        self._rate = state["_rate"]
        self._begin()
        if self._stream is not None:
            again = self._stream.resample_chunk(recent)
            first = (taken_in - len(recent)) * SAMPLE_RATE // self._rate
            self._ready = again[given_out - first :]
            self._in, self._out, self._recent = taken_in, given_out, recent


def _new_stream(rate: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")


@cache
def _delay(rate: int) -> int:
    """Samples at 16 kHz that libsoxr holds back at most: a filter's length and a block."""
    stream, given_out, held = _new_stream(rate), 0, 0
    piece = np.zeros(max(1, rate // 500), dtype=np.float32)
    for count in range(1, 501):
        given_out += len(stream.resample_chunk(piece))
        held = max(held, count * len(piece) * SAMPLE_RATE // rate - given_out)
    return held + 1 + len(piece) * SAMPLE_RATE // rate
