"""The sparse feed-forward against its twin, which multiplies everything."""

from __future__ import annotations

import secrets
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.ffn import sparse_feed_forward

Array = NDArray[np.float32]


def naive(x: Array, gate: Array, up: Array, down: Array, z: float) -> NDArray[np.float64]:
    """By the formula, in float64."""
    x, gate, up, down = (array.astype(np.float64) for array in (x, gate, up, down))
    gates = x @ gate.T
    cut = gates.mean(-1, keepdims=True) + z * gates.std(-1, keepdims=True)
    passed = np.maximum(gates - cut, 0)
    activated = 0.5 * passed * (1 + np.tanh(np.sqrt(2 / np.pi) * (passed + 0.044715 * passed**3)))
    return (activated * (x @ up.T)) @ down


def draw(count: int, width: int, hidden: int) -> tuple[Array, Array, Array, Array]:
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, hidden)).astype(np.float32)
    matrices = (rng.normal(size=(width, hidden)).astype(np.float32) * hidden**-0.5 for _ in range(3))
    return (x, *(matrix.astype(np.float32) for matrix in matrices))


@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(
    ("count", "width", "hidden"),
    [(1, 768, 192), (4, 1000, 256), (3, 37, 5), (1, 1, 1), (0, 8, 8), (9, 64, 7)],
)
def test_it_is_the_dense_product(sparsity, count, width, hidden):
    x, gate, up, down = draw(count, width, hidden)
    out = np.full_like(x, np.nan)
    z = NormalDist().inv_cdf(sparsity)
    sparse_feed_forward(x, gate, up, down, z=z, out=out)

    np.testing.assert_allclose(out, naive(x, gate, up, down, z), atol=1e-4)


def test_the_rows_of_units_that_stay_below_are_not_read():
    x, gate, up, down = draw(2, 400, 32)
    gates = x @ gate.T
    cut = gates.mean(-1, keepdims=True) + gates.std(-1, keepdims=True)
    unread = (gates < cut - 1e-3).all(0)
    up[unread] = down[unread] = np.nan
    out = np.empty_like(x)
    sparse_feed_forward(x, gate, up, down, z=1.0, out=out)

    assert 0.5 < unread.mean() < 1
    assert np.isfinite(out).all()


def test_nan_stays_where_it_is_and_is_not_lost():
    x, gate, up, down = draw(3, 60, 16)
    x[1, 3] = np.nan
    out = np.empty_like(x)
    sparse_feed_forward(x, gate, up, down, z=1.0, out=out)

    assert np.isnan(out[1]).all()
    assert np.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize("name", ["x", "gate", "up", "down", "out"])
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(np.float64),
        np.asfortranarray,
        lambda a: a[:, :-1].copy(),
        lambda a: a.ravel(),
        lambda a: a[0, 0],
    ],
    ids=["type", "layout", "shape", "axes", "scalar"],
)
def test_arrays_of_another_kind_are_refused(name, change):
    arrays = dict(zip(("x", "gate", "up", "down"), draw(2, 6, 4), strict=True))
    arrays["out"] = np.empty((2, 4), np.float32)
    arrays[name] = change(arrays[name])

    with pytest.raises(ValueError, match=r"must be contiguous float32"):
        sparse_feed_forward(*(arrays[part] for part in ("x", "gate", "up", "down")), z=1.0, out=arrays["out"])


def test_another_number_of_rows_is_refused():
    x, gate, up, down = draw(2, 6, 4)
    with pytest.raises(ValueError, match=r"up must be contiguous float32 \[6, 4\]"):
        sparse_feed_forward(x, gate, up[:5], down, z=1.0, out=np.empty_like(x))
