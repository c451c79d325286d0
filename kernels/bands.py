"""Loudness and spectral change of short frames, by which speech is told from steady sounds.

A frame is 480 samples (30 ms), weighted with a Hann window. Its power is summed in 16 bands, evenly
spaced on the mel scale between 200 and 4000 Hz: below lie hum, rumble and offset, above mostly hiss.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

FRAME_LENGTH = 480
FFT_LENGTH = 512
BANDS = 16
SILENCE = 2e-10
"""Power (-97 dB of full scale) that is added to each band: below it there is nothing to be heard."""

_LEVEL, _CHANGE = 0, 1
_BLOCK = 64  # frames that are transformed at once: bounds the memory for a long recording


def hann_window() -> NDArray[np.float32]:
    """The periodic Hann window, float32 ``[480]``, scaled so that a frame's spectrum sums up to its power."""
    n = np.arange(FRAME_LENGTH)
    window = 0.5 * (1 - np.cos(2 * np.pi * n / FRAME_LENGTH))
    # Parseval; the factor 2 stands for the negative frequencies.
    scaled: NDArray[np.float32] = (window * np.sqrt(2 / (FFT_LENGTH * np.sum(window**2)))).astype(np.float32)
    return scaled


def band_edges() -> NDArray[np.int64]:
    """The first FFT bin of each band and the bin after the last band, int64 ``[17]``."""
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (200.0, 4000.0))
    frequencies = 700.0 * (10.0 ** (np.linspace(low, high, BANDS + 1) / 2595.0) - 1.0)
    edges: NDArray[np.int64] = np.round(frequencies / 16_000 * FFT_LENGTH).astype(np.int64)
    return edges


def silence() -> NDArray[np.float32]:
    """Levels of the bands of a silent frame, float32 ``[16]``."""
    return np.full(BANDS, 10 * math.log10(SILENCE), dtype=np.float32)


_WINDOW = hann_window()
_EDGES = band_edges()


def describe_frames(
    samples: NDArray[np.float32], bands: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Fill ``out`` with the loudness of each frame and with how much its spectrum differs from the last one.

    The level is the mean of the bands' levels, which takes a loud narrow band for what it is and which
    hardly fluctuates in noise, whatever its spectrum. The change is the mean absolute deviation of the
    bands' level differences from their mean, both means weighted with the bands' amplitudes: a tone, a
    chord or a bell scores near 0 while it swells or dies away, speech and noise score 2 to 5.

    Args:
        samples: float32 ``[frames * 480]`` at 16 kHz, contiguous.
        bands: float32 ``[16]``, contiguous; levels (dB) of the bands of the last frame, at the start of a
            stream those of :func:`silence`. Updated, so that a stream may come in any number of calls.
        out: float32 ``[frames, 2]``, contiguous, overwritten with level (dB of full scale) and change (dB).

    Raises:
        ValueError: an array of another type, layout or shape.
    """
    frames = len(samples) // FRAME_LENGTH
    for name, array, shape in (
        ("samples", samples, (frames * FRAME_LENGTH,)),
        ("bands", bands, (BANDS,)),
        ("out", out, (frames, 2)),
    ):
        if array.dtype != np.float32 or array.shape != shape or not array.flags.c_contiguous:
            raise ValueError(
                f"{name} must be contiguous float32 {list(shape)}, got {array.dtype} {list(array.shape)}"
            )
    for start in range(0, frames, _BLOCK):
        block = out[start : start + _BLOCK]
        end = (start + len(block)) * FRAME_LENGTH
        windowed = samples[start * FRAME_LENGTH : end].reshape(-1, FRAME_LENGTH) * _WINDOW
        _describe_frames(np.fft.rfft(windowed, n=FFT_LENGTH), _EDGES, bands, block)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _describe_frames(
    spectrum: NDArray[np.complex64],
    edges: NDArray[np.int64],
    bands: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    amplitudes = np.empty(BANDS)
    differences = np.empty(BANDS)
    for frame in range(spectrum.shape[0]):
        level = 0.0
        total = 0.0
        drift = 0.0
        for band in range(BANDS):
            power = SILENCE
            for i in range(edges[band], edges[band + 1]):
                bin_ = spectrum[frame, i]
                power += bin_.real * bin_.real + bin_.imag * bin_.imag
            band_level = 10.0 * math.log10(power)
            differences[band] = band_level - bands[band]
            bands[band] = band_level
            amplitudes[band] = math.sqrt(power)
            level += band_level
            total += amplitudes[band]
            drift += amplitudes[band] * differences[band]
        drift /= total
        change = 0.0
        for band in range(BANDS):
            change += amplitudes[band] * abs(differences[band] - drift)
        out[frame, _LEVEL] = level / BANDS
        out[frame, _CHANGE] = change / total
