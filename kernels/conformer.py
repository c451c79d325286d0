"""One block of the audio encoder for the next few frames of streams, on one thread.

A stream brings four frames at a time, and its block some fifty operators, most of which take longer to start
than to compute; so all of a block is one function here. Formulas follow
:class:`pipeline.encoder.conformer.ConformerBlock`, whose twin this is for inference in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.rows import SUMS, Matrix, dot, multiply, norm, scale_of

_Array = NDArray[np.float32]

_ONE, _ZERO = np.float32(1.0), np.float32(0.0)


class Half(NamedTuple):
    """A half-step feed-forward; matrices are [out, in], here and below.

    Attributes:
        before: norm of its input, [hidden].
        up: [4 * hidden, hidden].
        down: [hidden, 4 * hidden].
        behind: norm of what comes out, [hidden].
    """

    before: _Array
    up: Matrix
    down: Matrix
    behind: _Array


class Block(NamedTuple):
    """A block.

    Attributes:
        start: its first half-step.
        end: its last.
        attention_norm: before attention, [hidden].
        query: [hidden, hidden].
        key: the same.
        value: the same.
        post: behind attention, the same.
        post_norm: behind that, [hidden].
        scale: of the query, with the cap of the logits divided out, [head_dim].
        distances: what the logit of a key at each distance gains, from the farthest to the query's own
            frame, [heads, L + 1, head_dim].
        conv_before: norm before the convolution, [hidden].
        conv_start: [2 * hidden, hidden].
        kernel: of the convolution, [length, hidden].
        conv_norm: behind it, [hidden].
        conv_end: [hidden, hidden].
        norm: of what comes out, [hidden].
        cap: of the logits.
        clip: of what norms are given.
        residual: how much of a half-step is added.
        eps: of norms, but for the two of the convolution.
        conv_eps: of these.
    """

    start: Half
    end: Half
    attention_norm: _Array
    query: Matrix
    key: Matrix
    value: Matrix
    post: Matrix
    post_norm: _Array
    scale: _Array
    distances: _Array
    conv_before: _Array
    conv_start: Matrix
    kernel: _Array
    conv_norm: _Array
    conv_end: Matrix
    norm: _Array
    cap: float
    clip: float
    residual: float
    eps: float
    conv_eps: float


class Memory(NamedTuple):
    """What a block remembers of B streams; it is replaced in place.

    Attributes:
        keys: of the last L frames of each, float32 [B, L, heads, head_dim].
        values: the same.
        gated: input of the convolution for its last frames, float32 [B, hidden, length - 1].
    """

    keys: _Array
    values: _Array
    gated: _Array


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _clipped_norm(x: _Array, clip: float, weight: _Array, eps: float) -> _Array:
    out = np.empty_like(x)
    most = np.float32(clip)
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            value = x[n, i]
            if value > most:
                value = most
            elif value < -most:
                value = -most
            out[n, i] = value
        scale = scale_of(out[n], eps)
        for i in range(x.shape[1]):
            out[n, i] *= scale * weight[i]
    return out


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _sigmoid(a: np.float32) -> np.float32:
    return _ONE / (_ONE + np.float32(math.exp(-a)))


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _silu(x: _Array) -> None:
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[n, i] *= _sigmoid(x[n, i])


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _half_step(x: _Array, half: Half, w: Block) -> _Array:
    inner = multiply(_clipped_norm(x, w.clip, half.before, w.eps), half.up, len(half.up.scales))
    _silu(inner)
    fed = _clipped_norm(multiply(inner, half.down, x.shape[1]), w.clip, half.behind, w.eps)
    out: _Array = x + np.float32(w.residual) * fed
    return out


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _attend(x: _Array, memory: Memory, seen: int, w: Block) -> _Array:
    keys, values = memory.keys, memory.values
    streams, past, heads, width = keys.shape
    count = x.shape[0] // streams
    query = multiply(x, w.query, x.shape[1])
    key = multiply(x, w.key, x.shape[1])
    value = multiply(x, w.value, x.shape[1])
    out = np.zeros_like(x)
    weights = np.empty(past + 1, np.float32)
    cap = np.float32(w.cap)
    for stream in range(streams):
        first = stream * count
        for t in range(count):
            for head in range(heads):
                begin, part = head * width, slice(head * width, (head + 1) * width)
                for i in range(width):
                    query[first + t, begin + i] *= w.scale[i]
                own, into = query[first + t, part], out[first + t, part]
                least = max(t - past, -seen)
                for at in range(least, t + 1):
                    other = key[first + at, part] if at >= 0 else keys[stream, past + at, head]
                    logit = dot(own, other) + dot(own, w.distances[head, past - t + at])
                    weights[at - least] = np.float32(math.tanh(logit)) * cap
                most = weights[: t + 1 - least].max()
                total = _ZERO
                for at in range(least, t + 1):
                    weight = np.float32(math.exp(weights[at - least] - most))
                    total += weight
                    other = value[first + at, part] if at >= 0 else values[stream, past + at, head]
                    for i in range(width):
                        into[i] += weight * other[i]
                for i in range(width):
                    into[i] /= total
        for at in range(past):
            place = at + count - past
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                if place >= 0:
                    keys[stream, at, head] = key[first + place, part]
                    values[stream, at, head] = value[first + place, part]
                else:
                    keys[stream, at, head] = keys[stream, at + count, head]
                    values[stream, at, head] = values[stream, at + count, head]
    return out


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _convolve(x: _Array, gated: _Array, w: Block) -> _Array:
    streams, hidden, past = gated.shape
    count = x.shape[0] // streams
    both = multiply(norm(x, w.conv_before, w.conv_eps), w.conv_start, 2 * hidden)
    for n in range(x.shape[0]):
        for i in range(hidden):
            both[n, i] *= _sigmoid(both[n, hidden + i])
    out = np.zeros_like(x)
    for stream in range(streams):
        first = stream * count
        for t in range(count):
            into = out[first + t]
            for k in range(past + 1):
                at, weight = t + k - past, w.kernel[k]
                if at >= 0:
                    source = both[first + at]
                    for i in range(hidden):
                        into[i] += weight[i] * source[i]
                else:
                    for i in range(hidden):
                        into[i] += weight[i] * gated[stream, i, past + at]
        for at in range(past):
            place = at + count - past
            for i in range(hidden):
                gated[stream, i, at] = both[first + place, i] if place >= 0 else gated[stream, i, at + count]
    inner = _clipped_norm(out, w.clip, w.conv_norm, w.conv_eps)
    _silu(inner)
    convolved: _Array = x + multiply(inner, w.conv_end, hidden)
    return convolved


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def block_step(x: _Array, memory: Memory, seen: int, w: Block) -> _Array:
    """Run a block over the next frames of streams that are alike, whose memory it goes on with.

    Args:
        x: float32 [B, T, hidden].
        memory: of these streams.
        seen: frames of each stream before these.
        w: the block.

    Returns:
        [B, T, hidden].
    """
    streams, count, hidden = x.shape
    rows: _Array = _half_step(x.reshape(streams * count, hidden), w.start, w)
    attended = _attend(_clipped_norm(rows, w.clip, w.attention_norm, w.eps), memory, seen, w)
    rows = rows + _clipped_norm(multiply(attended, w.post, hidden), w.clip, w.post_norm, w.eps)
    rows = _half_step(_convolve(rows, memory.gated, w), w.end, w)
    normed: _Array = _clipped_norm(rows, w.clip, w.norm, w.eps).reshape(streams, count, hidden)
    return normed
