"""Log-mel frames of Gemma 3n's audio front end.

A frame is 512 samples (32 ms), the next one starts 160 samples (10 ms) later; it is pre-emphasised
within itself, weighted with a periodic Hann window, transformed with a 1024-point FFT, and its
magnitudes are summed under 128 triangles that are evenly spaced on the HTK mel scale between 125 and
7600 Hz. Reference: ``feature_extraction_gemma3n.py`` of transformers.

Everything around the FFT is compiled. The FFT is NumPy's, which computes in double precision: in single
precision its rounding beside a loud tone would exceed the floor of the logs in silent bins.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
FRAME_LENGTH = 512
HOP_LENGTH = 160
FFT_LENGTH = 1024
MEL_BINS = 128
MIN_FREQUENCY = 125.0
MAX_FREQUENCY = 7600.0
MEL_FLOOR = 1e-5

_BLOCK = 64  # frames that are transformed at once: they stay in the cache, and a long recording fits
_KEEP = np.float32(1.0 - 0.97)  # what pre-emphasis leaves of a frame's first sample (HTK's way)
_PREEMPHASIS = np.float32(0.97)
_FLOOR = np.float32(MEL_FLOOR)


def hann_window() -> NDArray[np.float32]:
    """The periodic Hann window, float32 ``[512]``."""
    n = np.arange(FRAME_LENGTH, dtype=np.float32)
    return (0.5 * (1 - np.cos(2 * np.pi * n / FRAME_LENGTH))).astype(np.float32)


def mel_filterbank() -> NDArray[np.float64]:
    """The triangles as a dense matrix ``[513, 128]``: FFT bin by mel bin, each with a peak of 1."""
    low, high = (2595.0 * math.log10(1.0 + f / 700.0) for f in (MIN_FREQUENCY, MAX_FREQUENCY))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, MEL_BINS + 2) / 2595.0) - 1.0)
    frequencies = np.arange(FFT_LENGTH // 2 + 1) * (SAMPLE_RATE / FFT_LENGTH)
    distance = edges[None, :] - frequencies[:, None]
    widths = np.diff(edges)
    rising = -distance[:, :-2] / widths[:-1]
    falling = distance[:, 2:] / widths[1:]
    triangles: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return triangles


def _sparse(dense: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each column of ``dense`` its first non-zero row; where its weights lie in one array; that array."""
    columns = [np.flatnonzero(column) for column in dense.T]
    # At the bottom of the scale triangles are narrower than the FFT's bins: some hold none at all.
    first = np.array([rows[0] if len(rows) else 0 for rows in columns], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in columns])]).astype(np.int64)
    weights = np.concatenate([dense[rows, i] for i, rows in enumerate(columns)]).astype(np.float32)
    return first, offsets, weights


_WINDOW = hann_window()
_FIRST, _OFFSETS, _WEIGHTS = _sparse(mel_filterbank())


def frame_count(samples: int) -> int:
    """How many frames ``samples`` samples give.

    The reference cuts windows of 513 samples and uses 512 of each, so a frame wants one sample more
    than it looks at.
    """
    return max(0, (samples - FRAME_LENGTH - 1) // HOP_LENGTH + 1)


def log_mel(waveform: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Fill ``out`` with the log-mel frames of ``waveform``.

    Args:
        waveform: float32 ``[samples]``, contiguous, 16 kHz, finite values.
        out: float32 ``[frame_count(samples), 128]``, contiguous, overwritten with natural logs.

    Raises:
        ValueError: an array of another type, layout or shape.
    """
    if waveform.dtype != np.float32 or waveform.ndim != 1 or not waveform.flags.c_contiguous:
        raise ValueError(
            f"waveform must be contiguous float32 [samples], got {waveform.dtype} {list(waveform.shape)}"
        )
    expected = (frame_count(len(waveform)), MEL_BINS)
    if out.dtype != np.float32 or out.shape != expected or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be contiguous float32 {list(expected)}, got {out.dtype} {list(out.shape)}"
        )
    for start in range(0, len(out), _BLOCK):
        block = out[start : start + _BLOCK]
        frames = np.empty((len(block), FRAME_LENGTH), dtype=np.float32)
        _window_frames(waveform[start * HOP_LENGTH :], _WINDOW, frames)
        _log_triangles(np.fft.rfft(frames, n=FFT_LENGTH), _FIRST, _OFFSETS, _WEIGHTS, block)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _window_frames(
    waveform: NDArray[np.float32], window: NDArray[np.float32], frames: NDArray[np.float32]
) -> None:
    """Pre-emphasised, windowed frames ``[frames, 512]`` of ``waveform``."""
    for frame in range(frames.shape[0]):
        start = frame * HOP_LENGTH
        frames[frame, 0] = waveform[start] * _KEEP * window[0]
        for i in range(1, FRAME_LENGTH):
            emphasised = waveform[start + i] - _PREEMPHASIS * waveform[start + i - 1]
            frames[frame, i] = emphasised * window[i]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _log_triangles(
    spectrum: NDArray[np.complex64],
    first: NDArray[np.int64],
    offsets: NDArray[np.int64],
    weights: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Logs ``[frames, 128]`` of the weighted sums of the magnitudes of ``spectrum`` ``[frames, 513]``."""
    magnitudes = np.empty(spectrum.shape[1], dtype=np.float32)
    for frame in range(spectrum.shape[0]):
        for i in range(spectrum.shape[1]):
            bin_ = spectrum[frame, i]
            magnitudes[i] = math.sqrt(bin_.real * bin_.real + bin_.imag * bin_.imag)
        for mel in range(MEL_BINS):
            total = np.float32(0.0)
            shift = first[mel] - offsets[mel]
            for j in range(offsets[mel], offsets[mel + 1]):
                total += magnitudes[j + shift] * weights[j]
            out[frame, mel] = math.log(max(total, _FLOOR))
