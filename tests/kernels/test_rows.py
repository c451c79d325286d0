"""Products and norms of rows against numpy's."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from kernels.rows import Matrix, dot, multiply, norm, scale_of
from tests.kernels.test_step import exactly, matrix_like


@pytest.fixture
def rng():
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    return np.random.default_rng(seed)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("rows", [1, 10, 11])
@pytest.mark.parametrize("int8", [True, False])
def test_a_product_takes_the_rows_and_columns_in_use(rng, count, rows, int8):
    x = rng.normal(size=(count, 37)).astype(np.float32)
    matrix = matrix_like(rng.normal(size=(20, 50)).astype(np.float32), int8)
    want = x @ exactly(matrix)[:rows, :37].T

    np.testing.assert_allclose(multiply(x, matrix, rows), want, rtol=1e-4, atol=1e-4)


def test_a_norm_scales_each_row(rng):
    x, weight = rng.normal(size=(5, 33)).astype(np.float32), rng.normal(size=33).astype(np.float32)
    scale = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1) + 1e-3)

    np.testing.assert_allclose(scale_of(x[0], 1e-3), scale[0], rtol=1e-5)
    np.testing.assert_allclose(norm(x, weight, 1e-3), x * scale[:, None] * weight, rtol=1e-4, atol=1e-6)


def test_what_is_not_a_number_stays_so(rng):
    x = rng.normal(size=(6, 33)).astype(np.float32)
    x[2, 7] = np.nan

    assert np.isnan(dot(x[2], x[0]))
    assert np.isnan(multiply(x, Matrix(x, np.ones(6, np.float32)), 6)).sum() == 6 + 6 - 1
    assert np.isnan(norm(x, x[0], 1e-6)).any(axis=1).tolist() == [False, False, True, False, False, False]
