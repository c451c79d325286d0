"""The benchmark of per-layer embeddings: both sides compute the same, and the figures are there."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import ple
from pipeline.config import TextConfig
from pipeline.gemma.ple import PerLayerTable

SMALL = TextConfig.from_dict(
    {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size": 16,
        "hidden_size_per_layer_input": 8,
        "intermediate_size": 32,
        "vocab_size": 60,
        "vocab_size_per_layer_input": 50,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "laurel_rank": 4,
    }
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", ple.FORMS)
def test_torch_and_the_kernel_look_up_the_same(bits, dtype):
    table, scales = ple.random_table(SMALL, bits)
    ids, like = torch.tensor([[3], [0], [49]]), torch.empty(0, dtype=dtype)
    ours = PerLayerTable(SMALL, table, scales)(ids, like)

    assert ours.float().std() > 0
    torch.testing.assert_close(ple.look_up(SMALL, table, scales, ids, like).view(ours.shape), ours)


def test_a_run_ends_with_its_figures(capsys, monkeypatch):
    monkeypatch.setattr(ple, "e2b", lambda rows: SMALL)
    ple.main(["--batch", "2", "--repeat", "2"])
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)

    assert len(table) == 1 + len(result["lookups"])
    assert {(line["form"], line["batch"]) for line in result["lookups"]} == {
        (form, batch) for form in ple.FORMS.values() for batch in (2, ple.JUDGED)
    }
    assert result["vs_torch"] > 0
    assert result["of_limit"] > 0


@torch.inference_mode()
def test_a_step_is_timed_with_both_tables():
    parts = ple.step_overhead(SMALL, torch.device("cpu"), batches=(1, 3), repeat=1)

    assert len(parts) == 2
    assert all(map(math.isfinite, parts))


def test_sizes_are_those_of_e2b():
    config = ple.e2b(7)
    assert (config.num_hidden_layers, config.hidden_size_per_layer_input) == (30, 256)
    assert config.vocab_size_per_layer_input == 7


@pytest.mark.parametrize("option", ["--rows", "--batch", "--repeat"])
def test_sizes_below_one_are_refused(capsys, option):
    with pytest.raises(SystemExit):
        ple.main([option, "0"])
    assert "at least 1" in capsys.readouterr().err
