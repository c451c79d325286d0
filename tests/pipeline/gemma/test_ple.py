from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.config import TextConfig
from pipeline.gemma.ple import PerLayerEmbedding, PerLayerTable

CONFIG = TextConfig.from_dict(
    {
        "num_hidden_layers": 2,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 4,
        "vocab_size": 12,
        "vocab_size_per_layer_input": 10,
    }
)


def random_table(dtype: torch.dtype) -> Tensor:
    return torch.randn((10, 8), generator=torch.Generator().manual_seed(0)).to(dtype)


def learnable(weight: Tensor) -> PerLayerEmbedding:
    table = PerLayerEmbedding(CONFIG)
    table.load_state_dict({"weight": weight}, assign=True)
    return table


@pytest.fixture(params=[learnable, lambda weight: PerLayerTable(CONFIG, weight)], ids=["learnable", "mapped"])
def make(request: pytest.FixtureRequest):
    """What makes a lookup of a table."""
    return request.param


def test_ids_outside_the_table_have_its_first_row(make):
    """As in the reference: sound and images are told apart by their embeddings alone."""
    weight = random_table(torch.float32)
    rows = make(weight)(torch.tensor([[0, 9, 10, 11, -1]]), torch.empty(0))

    assert torch.equal(rows[0, 2:], rows[0, :1].expand(3, 2, 4))
    assert torch.equal(rows[0, 1].flatten(), 2 * weight[9])


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_come_in_the_dtype_of_the_decoder(make, stored, dtype):
    """Whatever the table is stored in, rounded once."""
    weight = random_table(stored)
    rows = make(weight)(torch.tensor([[3]]), torch.empty(0, dtype=dtype))

    assert rows.dtype == dtype
    assert torch.equal(rows[0, 0].flatten(), (2 * weight[3]).to(dtype))


@pytest.mark.parametrize("shape", [(1, 0), (3, 1), (2, 5)])
def test_rows_come_in_the_shape_of_the_ids(make, shape):
    weight = random_table(torch.bfloat16)
    ids = torch.randint(10, shape, generator=torch.Generator().manual_seed(1))
    rows = make(weight)(ids, torch.empty(0))

    assert torch.equal(rows, 2 * weight.float()[ids].view(*shape, 2, 4))


def test_a_mapped_table_costs_no_memory():
    """Bfloat16 and float32 stay where they are, and nothing of their size is made beside them."""
    for dtype in (torch.bfloat16, torch.float32):
        weight = random_table(dtype)
        assert PerLayerTable(CONFIG, weight).weight.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_table_has_rows_of_integers_times_scales(bits, dtype):
    """With 4 bits, a block's first half is in the low nibbles."""
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(-7, 8, (10, 2, 4), generator=generator)
    scales = torch.rand((10, 2), generator=generator)
    low, high = (integers + 8).to(torch.uint8).chunk(2, -1)
    values = integers.to(torch.int8) if bits == 8 else low + 16 * high
    table = PerLayerTable(CONFIG, values.flatten(1), scales)
    rows = table(torch.tensor([[5, 3], [11, 9]]), torch.empty(0, dtype=dtype))

    expected = integers * (2 * scales.unsqueeze(-1))
    assert torch.equal(rows, expected[[5, 3, 0, 9]].view(2, 2, 2, 4).to(dtype))
