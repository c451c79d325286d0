"""One layer of the decoder for the next few positions of sequences, on one thread.

Such a pass multiplies matrices of a few hundred kilobytes with one to some dozens of vectors. What stands
between the products takes little time to compute, and much to start operator by operator; so all of a layer
is one function here. A row of weights serves all positions while it is in the cache, and keys and values are
read where they lie. Formulas follow transformers' ``models/gemma3n/modeling_gemma3n.py``, as
:class:`pipeline.gemma.decoder.DecoderLayer` does, whose twin this is for inference in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.ffn import gelu, threshold
from kernels.rows import SUMS, Matrix, dot, multiply, norm, scale_of

_Array = NDArray[np.float32]
_Ints = NDArray[np.int64]

_ONE, _ZERO = np.float32(1.0), np.float32(0.0)
_SQRT_HALF = np.float32(math.sqrt(0.5))


class LayerShape(NamedTuple):
    """What else tells a layer from others.

    Attributes:
        active: the stream that the layer computes.
        width: units of the feed-forward in use.
        by_unit: whether ``down`` has a row for each unit.
        sparse: whether units below a threshold are cut off.
        z: how many standard deviations above the mean that threshold is.
        window: how many keys a query sees, its own included.
        eps: of the norms.
    """

    active: int
    width: int
    by_unit: bool
    sparse: bool
    z: float
    window: int
    eps: float


class Layer(NamedTuple):
    """A layer: its weights; vectors are float32, matrices [out, in] unless told otherwise.

    Attributes:
        input_norm: [hidden], as are the other norms of the layer's width.
        attention_norm: behind attention.
        feed_forward_norm: before the feed-forward.
        fed_norm: behind it.
        update_norm: behind the per-layer input.
        router_norm: before AltUp's router.
        laurel_norm: behind LAuReL.
        output_scale: of the corrected stream as the per-layer input sees it, [hidden]; ones if it has none.
        router: [streams, hidden].
        prediction: [streams², streams].
        correction: [streams, streams].
        laurel_left: [rank, hidden].
        laurel_right: [hidden, rank].
        query: [heads * head_dim, hidden].
        key: [kv_heads * head_dim, hidden]; no rows in a layer that shares keys and values.
        value: the same.
        output: [hidden, heads * head_dim].
        query_norm: [head_dim].
        key_norm: [head_dim].
        gate: [width, hidden].
        up: the same.
        down: [hidden, width], or a row for each unit where ``by_unit`` is set, [width, hidden].
        per_layer_gate: [ple, hidden].
        per_layer_projection: [hidden, ple].
        divisors: of the position for each angle of RoPE, [head_dim / 2].
        shape: what else tells the layer from others.
    """

    input_norm: _Array
    attention_norm: _Array
    feed_forward_norm: _Array
    fed_norm: _Array
    update_norm: _Array
    router_norm: _Array
    laurel_norm: _Array
    output_scale: _Array
    router: Matrix
    prediction: Matrix
    correction: Matrix
    laurel_left: Matrix
    laurel_right: Matrix
    query: Matrix
    key: Matrix
    value: Matrix
    output: Matrix
    query_norm: _Array
    key_norm: _Array
    gate: Matrix
    up: Matrix
    down: Matrix
    per_layer_gate: Matrix
    per_layer_projection: Matrix
    divisors: _Array
    shape: LayerShape


class Places(NamedTuple):
    """Where the N positions of a pass belong in the layers of one kind.

    Those of one sequence are behind each other, and each sees the ones before it.

    Attributes:
        positions: of each in its sequence, int64 [N].
        write: where in the pool its keys and values go, counted in positions of that, int64 [N].
        table: the blocks that the sequence of each reads, int64 [N, blocks].
        first: position of the first key in them, int64 [N].
    """

    positions: _Ints
    write: _Ints
    table: _Ints
    first: _Ints


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _modalities(x: _Array, w: Layer) -> _Array:
    routed: _Array = multiply(norm(x, w.router_norm, w.shape.eps), w.router, len(w.router.scales))
    for n in range(routed.shape[0]):
        for i in range(routed.shape[1]):
            routed[n, i] = np.float32(math.tanh(routed[n, i] / np.float32(x.shape[1])))
    return routed


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _predict(streams: _Array, w: Layer) -> _Array:
    count = streams.shape[0]
    mixing = multiply(_modalities(streams[w.shape.active], w), w.prediction, count * count)
    predictions: _Array = streams.copy()
    for n in range(streams.shape[1]):
        for i in range(count):
            for j in range(count):
                factor = mixing[n, i * count + j]
                into, stream = predictions[i, n], streams[j, n]
                for k in range(len(into)):
                    into[k] += factor * stream[k]
    return predictions


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _normed_heads(x: _Array, weight: _Array, w: Layer, positions: _Ints) -> None:
    """Norm and rotate heads in place, [n, heads * head_dim]."""
    divisors, eps, half = w.divisors, w.shape.eps, len(w.divisors)
    for n in range(x.shape[0]):
        for begin in range(0, x.shape[1], 2 * half):
            head = x[n, begin : begin + 2 * half]
            scale = scale_of(head, eps)
            for i in range(half):
                angle = np.float32(positions[n]) / divisors[i]
                cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
                first, second = head[i] * scale * weight[i], head[half + i] * scale * weight[half + i]
                head[i], head[half + i] = first * cos - second * sin, second * cos + first * sin


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _attend(query: _Array, kv: _Array, places: Places, window: int) -> _Array:
    positions, table, first = places.positions, places.table, places.first
    block, kv_heads, width = kv.shape[1], kv.shape[3], kv.shape[4]
    heads = query.shape[1] // width
    out = np.zeros_like(query)
    scores = np.empty(table.shape[1] * block, np.float32)
    for n in range(query.shape[0]):
        begin, end = max(first[n], positions[n] - window + 1), positions[n] + 1
        for head in range(heads):
            own = query[n, head * width : (head + 1) * width]
            into = out[n, head * width : (head + 1) * width]
            of = head // (heads // kv_heads)
            most = np.float32(-np.inf)
            for key in range(begin, end):
                at = key - first[n]
                score = dot(own, kv[table[n, at // block], at % block, 0, of])
                scores[key - begin] = score
                most = max(most, score)
            total = _ZERO
            for key in range(begin, end):
                weight = np.float32(math.exp(scores[key - begin] - most))
                total += weight
                at = key - first[n]
                value = kv[table[n, at // block], at % block, 1, of]
                for i in range(width):
                    into[i] += weight * value[i]
            for i in range(width):
                into[i] /= total
    return out


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _store(kv: _Array, x: _Array, places: Places, w: Layer) -> None:
    """Compute keys and values of the positions and write them, [blocks, BLOCK, 2, kv_heads, head_dim]."""
    write, eps = places.write, w.shape.eps
    keys = multiply(x, w.key, len(w.key.scales))
    values = multiply(x, w.value, len(w.value.scales))
    _normed_heads(keys, w.key_norm, w, places.positions)
    block, width = kv.shape[1], kv.shape[4]
    for n in range(x.shape[0]):
        place = kv[write[n] // block, write[n] % block]
        for head in range(kv.shape[3]):
            part = slice(head * width, (head + 1) * width)
            scale = scale_of(values[n, part], eps)
            _put(keys[n, part], _ONE, place[0, head])
            _put(values[n, part], scale, place[1, head])


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _put(x: _Array, scale: np.float32, out: _Array) -> None:
    """Scale a vector; zero where that is no number, for others may read the place when its owner is gone."""
    for i in range(len(x)):
        scaled = x[i] * scale
        out[i] = scaled if math.isfinite(scaled) else _ZERO


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def _feed(x: _Array, w: Layer) -> _Array:
    shape, width = w.shape, w.shape.width
    units = multiply(x, w.gate, width)
    if shape.sparse:
        for n in range(x.shape[0]):
            row = units[n]
            cut = threshold(row, shape.z)
            for j in range(width):
                # NaN is not below, and goes where it would in a dense product.
                row[j] = _ZERO if row[j] <= cut else row[j] - cut
        for j in range(width):
            row, scale = w.up.values[j], w.up.scales[j]
            for n in range(x.shape[0]):
                if units[n, j] != _ZERO:
                    units[n, j] = gelu(units[n, j]) * dot(row, x[n]) * scale
    else:
        up = multiply(x, w.up, width)
        for n in range(x.shape[0]):
            for j in range(width):
                units[n, j] = gelu(units[n, j]) * up[n, j]
    if not shape.by_unit:
        dense: _Array = multiply(units, w.down, x.shape[1])
        return dense
    out = np.zeros_like(x)
    for j in range(width):
        row = w.down.values[j]
        for n in range(x.shape[0]):
            factor, into = units[n, j] * w.down.scales[j], out[n]
            if factor != _ZERO:
                for i in range(len(into)):
                    into[i] += np.float32(row[i]) * factor
    return out


@numba.njit(nogil=True, cache=True, fastmath=SUMS)  # type: ignore[untyped-decorator]
def layer_step(streams: _Array, per_layer: _Array, kv: _Array, places: Places, w: Layer) -> _Array:
    """Run a layer over N positions, whose keys and values it writes if it owns any.

    Nothing is checked: indices beyond the arrays are the caller's error.

    Args:
        streams: float32 [streams, N, hidden].
        per_layer: the layer's additional input, float32 [N, ple].
        kv: where keys and values lie, of the layer itself or of the one it shares them with, float32
            [blocks, BLOCK, 2, kv_heads, head_dim].
        places: of the positions.
        w: the layer.

    Returns:
        The streams, [streams, N, hidden].
    """
    eps, active = w.shape.eps, w.shape.active
    predictions: _Array = _predict(streams, w)
    x = predictions[active]
    normed = norm(x, w.input_norm, eps)
    if len(w.key.scales):
        _store(kv, normed, places, w)
    query = multiply(normed, w.query, len(w.query.scales))
    _normed_heads(query, w.query_norm, w, places.positions)
    attended = _attend(query, kv, places, w.shape.window)
    attended = norm(multiply(attended, w.output, x.shape[1]), w.attention_norm, eps)
    low = multiply(normed, w.laurel_left, len(w.laurel_left.scales))
    laurel = normed + norm(multiply(low, w.laurel_right, x.shape[1]), w.laurel_norm, eps)
    attended = (x + attended + laurel) * _SQRT_HALF
    fed = _feed(norm(attended, w.feed_forward_norm, eps), w)
    activated = attended + norm(fed, w.fed_norm, eps)
    gain = multiply(_modalities(activated, w), w.correction, streams.shape[0])
    innovation = activated - x
    for stream in range(streams.shape[0]):
        for n in range(x.shape[0]):
            into, factor = predictions[stream, n], gain[n, stream] + _ONE
            for i in range(len(into)):
                into[i] += factor * innovation[n, i]
    scaled = predictions[active] * w.output_scale
    gated = multiply(scaled, w.per_layer_gate, len(w.per_layer_gate.scales))
    for n in range(gated.shape[0]):
        for i in range(gated.shape[1]):
            gated[n, i] = gelu(gated[n, i]) * per_layer[n, i]
    update = norm(multiply(gated, w.per_layer_projection, x.shape[1]), w.update_norm, eps)
    # Every stream but the first, whichever is active, receives the per-layer input.
    for stream in range(1, streams.shape[0]):
        predictions[stream] += update
    return predictions
