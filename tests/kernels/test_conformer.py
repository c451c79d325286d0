"""A block's step against the formulas in float64, over a whole sequence at once."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from kernels.conformer import Block, Half, Memory, block_step
from kernels.rows import Matrix
from tests.kernels.test_step import exactly, matrix_like


def norm(x, weight, eps, clip=np.inf):
    x = np.clip(x, -clip, clip)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def half_step(x, half, w):
    inner = norm(x, half.before, w.eps, w.clip) @ half.up.T
    return x + w.residual * norm(inner * sigmoid(inner) @ half.down.T, half.behind, w.eps, w.clip)


def twin(x, w):
    """All frames of one stream, [T, hidden]."""
    heads, keys, _ = w.distances.shape
    length, x = len(w.kernel), half_step(x, w.start, w)
    normed = norm(x, w.attention_norm, w.eps, w.clip)
    query, key, value = (
        (normed @ matrix.T).reshape(len(x), heads, -1) for matrix in (w.query, w.key, w.value)
    )
    attended = np.zeros_like(query)
    for t in range(len(x)):
        span = range(max(0, t - keys + 1), t + 1)
        for head in range(heads):
            own = query[t, head] * w.scale
            both = [key[s, head] + w.distances[head, keys - 1 - t + s] for s in span]
            weights = np.exp(np.tanh(np.array(both) @ own) * w.cap)
            attended[t, head] = weights / weights.sum() @ value[list(span), head]
    x = x + norm(attended.reshape(len(x), -1) @ w.post.T, w.post_norm, w.eps, w.clip)
    start, gate = np.split(norm(x, w.conv_before, w.conv_eps) @ w.conv_start.T, 2, axis=-1)
    padded = np.concatenate([np.zeros((length - 1, x.shape[1])), start * sigmoid(gate)])
    convolved = sum(w.kernel[k] * padded[k : k + len(x)] for k in range(length))
    inner = norm(convolved, w.conv_norm, w.conv_eps, w.clip)
    x = x + inner * sigmoid(inner) @ w.conv_end.T
    return norm(half_step(x, w.end, w), w.norm, w.eps, w.clip)


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("int8", [True, False])
def test_steps_are_the_formulas_over_the_whole(streams, past, length, int8):
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    rng = np.random.default_rng(seed)
    heads, head_dim = int(rng.integers(1, 5)), int(rng.integers(2, 9))
    hidden = heads * head_dim

    def draw(*shape):
        return (rng.normal(size=shape) * shape[-1] ** -0.5 * 1.2).astype(np.float32)

    def matrix(rows, columns):
        return matrix_like(draw(rows, columns), int8)

    def half():
        up, down = matrix(4 * hidden, hidden), matrix(hidden, 4 * hidden)
        return Half(draw(hidden) * 3, up, down, draw(hidden) * 3)

    w = Block(
        start=half(),
        end=half(),
        attention_norm=draw(hidden) * 3,
        query=matrix(hidden, hidden),
        key=matrix(hidden, hidden),
        value=matrix(hidden, hidden),
        post=matrix(hidden, hidden),
        post_norm=draw(hidden) * 3,
        scale=draw(head_dim),
        distances=draw(heads, past + 1, head_dim),
        conv_before=draw(hidden) * 3,
        conv_start=matrix(2 * hidden, hidden),
        kernel=draw(length, hidden) * 3,
        conv_norm=draw(hidden) * 3,
        conv_end=matrix(hidden, hidden),
        norm=draw(hidden) * 3,
        cap=float(rng.choice([2.0, 50.0])),
        clip=float(rng.choice([1e10, 1.5])),
        residual=0.5,
        eps=1e-6,
        conv_eps=1e-2,
    )
    x = draw(streams, 20, hidden) * 5
    # What lies in the memory of a stream that has not begun must not be looked at, but for its convolution.
    keys, values = (np.full((streams, past, heads, head_dim), np.nan, np.float32) for _ in range(2))
    gated = np.zeros((streams, hidden, length - 1), np.float32)
    memory = Memory(keys, values, gated)
    got, seen = [], 0
    while seen < 20:
        count = int(rng.integers(1, 21 - seen))
        got.append(block_step(np.ascontiguousarray(x[:, seen : seen + count]), memory, seen, w))
        seen += count

    def wide(part):
        return exactly(part) if isinstance(part, (np.ndarray, Matrix)) else part

    exact = Block(*(Half(*map(wide, part)) if isinstance(part, Half) else wide(part) for part in w))
    for stream in range(streams):
        want = twin(x[stream].astype(np.float64), exact)
        np.testing.assert_allclose(np.concatenate(got, axis=1)[stream], want, rtol=1e-3, atol=1e-3)
