from __future__ import annotations

import pytest
import torch

from pipeline.config import TextConfig
from pipeline.gemma.ple import PerLayerEmbedding

CONFIG = TextConfig.from_dict(
    {
        "num_hidden_layers": 2,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 4,
        "vocab_size": 12,
        "vocab_size_per_layer_input": 10,
    }
)


def test_ids_outside_the_table_have_its_first_row():
    """As in the reference: sound and images are told apart by their embeddings alone."""
    table = PerLayerEmbedding(CONFIG)
    rows = table(torch.tensor([[0, 9, 10, 11]]), torch.empty(0))

    assert torch.equal(rows[0, 2:], rows[0, :1].expand(2, 2, 4))
    assert torch.equal(rows[0, 1].flatten(), 2 * table.weight[9])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_in_the_dtype_of_the_decoder(dtype):
    """Whatever the table is stored in: here it stays bfloat16."""
    table = PerLayerEmbedding(CONFIG).to(torch.bfloat16)
    rows = table(torch.tensor([[3]]), torch.empty(0, dtype=dtype))

    assert rows.dtype == dtype
    assert table.weight.dtype == torch.bfloat16
    torch.testing.assert_close(rows[0, 0].flatten().float(), 2 * table.weight[3].float())
