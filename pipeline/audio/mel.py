"""16 kHz samples to log-mel frames, for a whole recording and for a stream.

A frame is ready as soon as its 513 samples are there (512 that it looks at and one more that the
reference's framing wants to exist), so frame k needs the first ``160 k + 513`` samples, and a stream
holds back fewer than 673 samples. See :mod:`kernels.mel` for what a frame is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels import mel as kernel

PAD_MULTIPLE = 128
"""The end of the audio is padded with zeros to a multiple of this many samples, as in the reference."""


class MelFrontend:
    """Log-mel frames of a stream, the same ones as :func:`log_mel` gives for the whole of it.

    Feed it with :meth:`push` and call :meth:`flush` at the end.
    """

    def __init__(self) -> None:
        # Samples from the start of the next frame on.
        self._tail = np.empty(0, dtype=np.float32)
        # Samples pushed so far, modulo PAD_MULTIPLE.
        self._phase = 0

    def push(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add samples and return the frames that they complete.

        Args:
            waveform: float32 ``[samples]`` at 16 kHz, finite values, any number of them.

        Returns:
            Float32 ``[frames, 128]``, natural logs.
        """
        self._phase = (self._phase + len(waveform)) % PAD_MULTIPLE
        samples = (
            np.concatenate([self._tail, waveform]) if len(self._tail) else np.ascontiguousarray(waveform)
        )
        frames = np.empty((kernel.frame_count(len(samples)), kernel.MEL_BINS), dtype=np.float32)
        if len(frames):
            kernel.log_mel(samples, frames)
        self._tail = samples[len(frames) * kernel.HOP_LENGTH :].copy()
        return frames

    def flush(self) -> NDArray[np.float32]:
        """End the audio: pad it and return the remaining frames, float32 ``[frames, 128]``.

        Afterwards the front end is as new.
        """
        frames = self.push(np.zeros(-self._phase % PAD_MULTIPLE, dtype=np.float32))
        self._tail = self._tail[:0]
        return frames


def log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-mel frames of a whole recording.

    These are the ``input_features`` of transformers' ``Gemma3nAudioFeatureExtractor``, without its
    truncation at 30 seconds.

    Args:
        waveform: float32 ``[samples]`` at 16 kHz, finite values.

    Returns:
        Float32 ``[frames, 128]``; 98 frames for a second of audio, none below 385 samples.
    """
    frontend = MelFrontend()
    return np.concatenate([frontend.push(waveform), frontend.flush()])
