"""Computations of fixed shapes. Recording them needs a GPU; the rest does not."""

from __future__ import annotations

import pytest
import torch

from pipeline.graphs import Fixed, Recorder

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


class Product(Fixed):
    """Of each of some numbers with one of its own."""

    def __init__(self, recorder: Recorder, count: int):
        super().__init__(recorder, [count, 1])
        self.computed = 0
        self.result = torch.zeros(count, dtype=torch.int64, device=recorder.device)

    def compute(self) -> None:
        self.computed += 1
        self.result.copy_(self.inputs[0] * self.inputs[1])


@pytest.mark.parametrize("device", DEVICES)
def test_each_run_has_the_inputs_that_were_filled_in(device):
    """Though nothing waits for the run before."""
    recorder = Recorder(torch.device(device))
    recorder.begin_anew()
    products = [Product(recorder, count) for count in (5, 3)]
    for number in range(40):
        for product in products:
            product.clear()
            product.filled[0][:2] = [number, 1]
            product.filled[1][:] = number
            product.run()
    for product in products:
        assert product.result.tolist()[:3] == [39 * 39, 39, 0]
        assert product.computed == (40 if device == "cpu" else 2)


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_recorded_anew_takes_other_memory(device):
    """The first graphs are gone by then, as when a pool has grown."""
    recorder = Recorder(torch.device(device))
    for _ in range(3):
        recorder.begin_anew()
        product = Product(recorder, 2)
        product.filled[0][:], product.filled[1][:] = [2, 3], 4
        product.run()
        assert product.result.tolist() == [8, 12]
        del product
