"""Models of published size, here with little in each layer: transformers' and ours are the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks import models
from pipeline.config import AudioConfig

LITTLE = {
    "hidden_size": 64,
    "head_dim": 16,
    "num_attention_heads": 4,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "vocab_size": 400,
    "vocab_size_per_layer_input": 300,
}


@pytest.mark.parametrize("name", models.PUBLISHED)
@torch.inference_mode()
def test_both_compute_the_same(name, monkeypatch):
    raw = models.PUBLISHED[name]
    width = raw["intermediate_size"] // 64
    monkeypatch.setitem(models.PUBLISHED, name, {**raw, **LITTLE, "intermediate_size": width})
    audio = dataclasses.replace(AudioConfig(), hidden_size=32, conf_num_hidden_layers=1)
    monkeypatch.setattr(models, "AudioConfig", lambda: audio)
    model, reference = models.published(name, torch.device("cpu"))
    decoder, table = model.language_model, model.language_model.embed_tokens_per_layer

    assert table.weight.dtype == decoder.embed_tokens.weight.dtype == torch.bfloat16
    assert decoder.embed_tokens.weight.data_ptr() == reference.model.embed_tokens.weight.data_ptr()
    ids = torch.randint(0, 300, (1, 40))
    expected = reference.float()(input_ids=ids).logits
    decoder.float()
    torch.testing.assert_close(model.logits(ids[0].tolist()), expected[0], atol=1e-3, rtol=0)
