"""Any sample rate to 16 kHz, for a stream that may be cut anywhere."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from pipeline.config import SAMPLE_RATE


class Resampler:
    """Resamples a stream with libsoxr at its high quality (a linear-phase filter, 20 bits).

    What comes out is bit for bit the same however the input was cut. The filter holds back 37 to 115 ms
    of audio, depending on the rate; at 16 kHz samples pass through as they are.

    Args:
        rate: samples per second of the input.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stream = self._new_stream()

    def _new_stream(self) -> soxr.ResampleStream | None:
        if self._rate == SAMPLE_RATE:
            return None
        return soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add samples and return what became certain.

        Args:
            samples: float32 ``[samples]`` at the input rate.

        Returns:
            Float32 ``[samples]`` at 16 kHz.
        """
        if self._stream is None:
            return samples
        resampled: NDArray[np.float32] = self._stream.resample_chunk(samples)
        return resampled

    def flush(self) -> NDArray[np.float32]:
        """End the audio and return the rest, float32 ``[samples]``; afterwards the resampler is as new."""
        empty = np.empty(0, dtype=np.float32)
        if self._stream is None:
            return empty
        rest: NDArray[np.float32] = self._stream.resample_chunk(empty, last=True)
        self._stream = self._new_stream()
        return rest
