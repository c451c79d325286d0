"""Which steps are small enough for a compiled kernel, and what it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.small import LEAST_COLUMNS, MOST_HIDDEN, MOST_THREADS, array_of, is_small, matrix_of, rounded

WEIGHT = torch.zeros(2, 2)


def test_a_step_is_small_up_to_what_was_measured(monkeypatch):
    assert is_small(WEIGHT, MOST_HIDDEN, 32, 32)
    assert not is_small(WEIGHT, MOST_HIDDEN + 1, 32, 32)
    assert not is_small(WEIGHT, MOST_HIDDEN, 33, 32)
    for threads in (MOST_THREADS, MOST_THREADS + 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert is_small(WEIGHT, 1, 1, 1) == (threads <= MOST_THREADS)


@pytest.mark.parametrize("weight", [WEIGHT.bfloat16(), WEIGHT.to("meta")])
def test_other_numbers_and_other_devices_are_for_torch(weight):
    assert not is_small(weight, 1, 1, 1)


def test_a_kernel_sees_the_weights_themselves():
    """Copied only where they are spread over something larger."""
    whole = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    part = whole[:, :2]
    whole.data[0, 0] = 7

    assert np.shares_memory(array_of(whole), whole.detach().numpy())
    assert np.array_equal(array_of(part), [[7, 1], [4, 5], [8, 9]])
    assert array_of(part).flags.c_contiguous


def test_rounded_weights_are_what_int8_holds():
    """Each within half a step of what it was, and exactly what a kernel reads; rows of zeros stay."""
    weight = torch.randn(9, LEAST_COLUMNS) * torch.logspace(-6, 3, 9)[:, None]
    weight[3] = 0
    whole = rounded(weight)
    matrix = matrix_of(whole, int8=True)

    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((whole - weight).abs() <= step * 0.501).all()
    assert matrix.values.dtype == np.int8
    np.testing.assert_allclose(matrix.values * matrix.scales[:, None], whole, rtol=1e-6)
    assert torch.equal(rounded(whole).sign(), whole.sign())
    torch.testing.assert_close(rounded(whole), whole, rtol=1e-6, atol=0)


def test_what_is_narrow_stays_as_it_is():
    narrow = torch.randn(4, LEAST_COLUMNS - 1)
    matrix = matrix_of(narrow, int8=True)

    assert rounded(narrow) is narrow
    assert np.array_equal(matrix.values, narrow)
    assert np.array_equal(matrix.scales, np.ones(4))
    assert matrix_of(torch.empty(0, LEAST_COLUMNS), int8=True).values.shape == (0, LEAST_COLUMNS)


def test_not_a_number_is_not_hidden():
    weight = torch.randn(2, LEAST_COLUMNS)
    weight[1, 5] = float("nan")
    assert rounded(weight)[1].isnan().any()
