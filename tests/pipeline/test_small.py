"""Which steps are small enough for a compiled kernel, and what it is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.small import MOST_HIDDEN, MOST_THREADS, array_of, is_small

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
