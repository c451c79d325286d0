"""A layer's step against its twin in float64."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from kernels.rows import Matrix
from kernels.step import Layer, LayerShape, Places, layer_step

BLOCK = 4


def norm(x, weight, eps=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rotate(heads, position, divisors):
    """Pairs of a head's two halves as complex numbers."""
    half = len(divisors)
    turned = (heads[..., :half] + 1j * heads[..., half:]) * np.exp(1j * position / divisors)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def matrix_like(numbers, int8):
    """A matrix as kernels take it, in int8 with scales of any size."""
    if not int8:
        return Matrix(numbers, np.ones(len(numbers), np.float32))
    scales = np.abs(numbers).max(1, initial=1e-6) / np.float32(127)
    return Matrix((numbers / scales[:, None]).round().astype(np.int8), scales)


def exactly(part):
    """An array, or the numbers of a matrix, in float64."""
    if isinstance(part, Matrix):
        return part.values.astype(np.float64) * part.scales.astype(np.float64)[:, None]
    return part.astype(np.float64)


def twin(streams, per_layer, past, position, w):
    """One position of one sequence by the formulas; ``past`` are keys and values before it."""
    shape, keys, values = w.shape, past[:, 0], past[:, 1]
    hidden, width, head_dim = streams.shape[-1], shape.width, len(w.query_norm)

    def modalities(x):
        return np.tanh(w.router @ norm(x, w.router_norm) / hidden)

    count = len(streams)
    mixing = (w.prediction @ modalities(streams[shape.active])).reshape(count, count)
    predictions = streams + mixing @ streams
    x = predictions[shape.active]
    normed = norm(x, w.input_norm)
    if len(w.key):
        own = rotate(norm((w.key @ normed).reshape(-1, head_dim), w.key_norm), position, w.divisors)
        keys = np.concatenate([keys, own[None]])
        values = np.concatenate([values, norm((w.value @ normed).reshape(1, -1, head_dim), 1.0)])
    seen = slice(max(0, position - shape.window + 1), position + 1)
    query = rotate(norm((w.query @ normed).reshape(-1, head_dim), w.query_norm), position, w.divisors)
    repeat = len(query) // keys.shape[1]
    scores = np.einsum("hd,shd->hs", query, keys[seen].repeat(repeat, 1))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    attended = np.einsum("hs,shd->hd", weights, values[seen].repeat(repeat, 1)).ravel()
    laurel = normed + norm(w.laurel_right @ (w.laurel_left @ normed), w.laurel_norm)
    attended = (x + norm(w.output @ attended, w.attention_norm) + laurel) * np.sqrt(0.5)
    inner = norm(attended, w.feed_forward_norm)
    gate = w.gate[:width] @ inner
    if shape.sparse:
        gate = np.maximum(gate - gate.mean() - gate.std() * shape.z, 0)
    down = w.down[:width].T if shape.by_unit else w.down[:, :width]
    activated = attended + norm(down @ (gelu(gate) * (w.up[:width] @ inner)), w.fed_norm)
    gain = w.correction @ modalities(activated) + 1
    corrected = predictions + gain[:, None] * (activated - x)
    gated = gelu(w.per_layer_gate @ (corrected[shape.active] * w.output_scale)) * per_layer
    corrected[1:] += norm(w.per_layer_projection @ gated, w.update_norm)
    return corrected, keys, values


@pytest.mark.parametrize("owns", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("by_unit", [True, False])
@pytest.mark.parametrize("int8", [True, False])
def test_a_layer_is_its_formulas(owns, sparse, by_unit, int8):
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    rng = np.random.default_rng(seed)
    streams, count, ple, units, rank, kv_heads = (int(rng.integers(1, 5)) for _ in range(6))
    heads, head_dim, hidden = kv_heads * int(rng.integers(1, 4)), 2 * int(rng.integers(1, 9)), 24
    units, window = units * 16, int(rng.integers(1, 12))

    width = int(rng.integers(1, units + 1))
    shape = LayerShape(int(rng.integers(streams)), width, by_unit, sparse, 0.3, window, 1e-6)

    def draw(*shape):
        return (rng.normal(size=shape) * shape[-1] ** -0.5 * 1.2).astype(np.float32)

    def matrix(rows, columns):
        return matrix_like(draw(rows, columns), int8)

    norms = Layer._fields[:8]
    own = kv_heads * head_dim if owns else 0
    w = Layer(
        **{name: draw(hidden) * 3 for name in norms},
        router=matrix(streams, hidden),
        prediction=matrix(streams**2, streams),
        correction=matrix(streams, streams),
        laurel_left=matrix(rank, hidden),
        laurel_right=matrix(hidden, rank),
        query=matrix(heads * head_dim, hidden),
        key=matrix(own, hidden),
        value=matrix(own, hidden),
        output=matrix(hidden, heads * head_dim),
        query_norm=draw(head_dim),
        key_norm=draw(head_dim),
        gate=matrix(units, hidden),
        up=matrix(units, hidden),
        down=matrix(units, hidden) if by_unit else matrix(hidden, units),
        per_layer_gate=matrix(ple, hidden),
        per_layer_projection=matrix(hidden, ple),
        divisors=(100.0 ** (np.arange(head_dim // 2) / head_dim)).astype(np.float32),
        shape=shape,
    )
    x, per_layer = draw(streams, count, hidden) * 5, draw(count, ple)
    # Sequences lie in blocks that are strewn about; what nobody may read is not a number.
    positions = rng.integers(0, 14, count)
    kv = np.full((1 + 4 * count, BLOCK, 2, kv_heads, head_dim), np.nan, np.float32)
    blocks = rng.permutation(np.arange(1, len(kv))).reshape(count, 4)
    first = np.maximum(0, positions - window + 1) // BLOCK * BLOCK
    table, write = np.zeros((count, 4), np.int64), np.zeros(count, np.int64)
    pasts = []
    for n, position in enumerate(positions):
        held = position + (not owns)
        past = draw(held, 2, kv_heads, head_dim)
        for at in range(held):
            kv[blocks[n, at // BLOCK], at % BLOCK] = past[at]
        pasts.append(past)
        seen = blocks[n, first[n] // BLOCK : position // BLOCK + 1]
        table[n, : len(seen)] = seen
        write[n] = blocks[n, position // BLOCK] * BLOCK + position % BLOCK
    got = layer_step(x, per_layer, kv, Places(positions, write, table, first), w)

    exact = Layer(*map(exactly, w[:-1]), shape)
    for n, past in enumerate(pasts):
        want, keys, values = twin(x[:, n].astype(np.float64), per_layer[n], past, positions[n], exact)
        np.testing.assert_allclose(got[:, n], want, rtol=1e-3, atol=1e-3)
        place = kv[write[n] // BLOCK, write[n] % BLOCK]
        np.testing.assert_allclose(place[0], keys[positions[n]], atol=1e-4)
        np.testing.assert_allclose(place[1], values[positions[n]], atol=1e-4)
