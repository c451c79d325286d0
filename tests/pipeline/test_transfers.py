"""What travels between the CPU and a device. That nothing waits needs a GPU to be seen; the rest does not."""

from __future__ import annotations

import pytest
import torch

from pipeline.transfers import Fetched, to_device

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_fetched_is_what_was_there_then(device):
    """Though it is asked for when the device has put something else there."""
    values = torch.arange(5, device=device)
    fetched = Fetched(values)
    values += 7

    assert fetched.part(slice(1, 3)) == [1, 2]
    assert fetched.values == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_there_already_stays_there(device):
    values = torch.arange(5, device=device)

    assert to_device(values, values.device) is values
    assert to_device(values, torch.device("cpu")).device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_neither_way_waits_for_what_the_device_is_computing():
    big = torch.randn(8192, 8192, device="cuda")
    for _ in range(3):
        product = big @ big
        there = to_device(torch.arange(5), big.device)
        fetched = Fetched(there)
        computed = torch.cuda.Event()
        computed.record()
        waited = computed.query()

    assert not waited
    assert fetched.values == [0, 1, 2, 3, 4]
    assert product.isfinite().all()
