"""Silero's network, which tells how likely a chunk of 32 ms is to be somebody who speaks (*Silero VAD*, v6).

A spectrum of four frames, four convolutions over them that leave one, a recurrent layer, and one number. The
products go through the weights once and add their rows to all frames, in the order in which they stand: the
same chunks give the same number to the bit, whatever else is computed beside them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]

CHUNK = 512
"""Samples of a chunk, at 16 kHz."""

CONTEXT = 64
"""Samples before a chunk that are seen with it."""

UNITS = 128
"""Of the recurrent layer."""

FFT, HOP, FRAMES, BINS = 256, 128, 4, 129
"""Of the spectrum: samples of a frame, from one to the next, frames of a chunk, and magnitudes of a frame."""


class Network(NamedTuple):
    """The weights, all contiguous float32.

    Attributes:
        basis: windowed cosines and sines, [256, 2 * 129].
        kernels: of the four convolutions, [3, in, out] each.
        biases: of these, [out] each.
        heard: what the recurrent layer makes of a chunk, [128, 4 * 128]: input, forget, cell and output gate.
        remembered: and of what it said last, likewise.
        gates: biases of the gates, [4 * 128].
        voice: what tells a voice in what that layer says, [128].
        bias: of the result, [1].
    """

    basis: _Array
    kernels: tuple[_Array, _Array, _Array, _Array]
    biases: tuple[_Array, _Array, _Array, _Array]
    heard: _Array
    remembered: _Array
    gates: _Array
    voice: _Array
    bias: _Array


class Memory(NamedTuple):
    """What the network takes along from chunk to chunk, float32: changed in place.

    Attributes:
        context: the samples before the next chunk, [64].
        said: what the recurrent layer said last, [128].
        cells: its cells, [128].
    """

    context: _Array
    said: _Array
    cells: _Array


def forgotten() -> Memory:
    """The memory of a network that has heard nothing."""
    return Memory(np.zeros(CONTEXT, np.float32), np.zeros(UNITS, np.float32), np.zeros(UNITS, np.float32))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def probability(chunk: _Array, network: Network, memory: Memory) -> float:
    """How likely somebody speaks in the next chunk, 0 to 1.

    Args:
        chunk: contiguous float32 [512].
        network: the weights.
        memory: of the chunks before.
    """
    kernels, biases = network.kernels, network.biases
    frames = _magnitudes(chunk, network.basis, memory.context)
    frames = _convolved(frames, kernels[0], biases[0], 1)
    frames = _convolved(frames, kernels[1], biases[1], 2)
    frames = _convolved(frames, kernels[2], biases[2], 2)
    frames = _convolved(frames, kernels[3], biases[3], 1)
    gates = network.gates.copy().reshape(1, -1)
    _add_product(frames, network.heard, gates)
    _add_product(memory.said.reshape(1, -1), network.remembered, gates)
    total = network.bias[0]
    for i in range(UNITS):
        take, keep = _sigmoid(gates[0, i]), _sigmoid(gates[0, UNITS + i])
        new, tell = math.tanh(gates[0, 2 * UNITS + i]), _sigmoid(gates[0, 3 * UNITS + i])
        memory.cells[i] = keep * memory.cells[i] + take * new
        memory.said[i] = tell * math.tanh(memory.cells[i])
        total += max(memory.said[i], np.float32(0.0)) * network.voice[i]
    memory.context[:] = chunk[-CONTEXT:]
    return float(_sigmoid(total))


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _magnitudes(chunk: _Array, basis: _Array, context: _Array) -> _Array:
    """The spectrum of a chunk behind its context and before its own mirror image, [4, 129]."""
    padded = np.empty(CONTEXT + CHUNK + CONTEXT, np.float32)
    padded[:CONTEXT] = context
    padded[CONTEXT:-CONTEXT] = chunk
    padded[-CONTEXT:] = chunk[-CONTEXT - 1 : -1][::-1]
    frames = np.empty((FRAMES, FFT), np.float32)
    for t in range(FRAMES):
        frames[t] = padded[t * HOP : t * HOP + FFT]
    spectrum = np.zeros((FRAMES, 2 * BINS), np.float32)
    _add_product(frames, basis, spectrum)
    out = np.empty((FRAMES, BINS), np.float32)
    for t in range(FRAMES):
        for i in range(BINS):
            out[t, i] = math.sqrt(spectrum[t, i] ** 2 + spectrum[t, BINS + i] ** 2)
    return out


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _convolved(frames: _Array, kernel: _Array, bias: _Array, stride: int) -> _Array:
    """[n, in] -> [n / stride, out], not below 0; what is outside the frames counts as 0."""
    count = (len(frames) - 1) // stride + 1
    out = np.empty((count, len(bias)), np.float32)
    for t in range(count):
        out[t] = bias
    for k in range(3):
        first = 1 if k == 0 else 0
        last = min(count, (len(frames) - k) // stride + 1)
        if first < last:
            begin = first * stride + k - 1
            _add_product(
                frames[begin : begin + (last - first - 1) * stride + 1 : stride], kernel[k], out[first:last]
            )
    return np.maximum(out, np.float32(0.0))


@numba.njit(nogil=True, cache=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _add_product(x: _Array, weights: _Array, out: _Array) -> None:
    """Add ``x weights``, [n, in] and [in, out], to [n, out]."""
    for i in range(len(weights)):
        row = weights[i]
        for t in range(len(x)):
            factor, sums = x[t, i], out[t]
            for j in range(len(row)):
                sums[j] += factor * row[j]


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sigmoid(x: np.float32) -> np.float32:
    return np.float32(1.0) / (np.float32(1.0) + math.exp(-x))
