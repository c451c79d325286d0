"""The prefill benchmark measures what it says, on prompts that take no time."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import prefill
from benchmarks.models import bundled
from pipeline.config import FULL


@pytest.fixture(name="models", scope="module")
def _models():
    return bundled()


@torch.inference_mode()
def test_both_ways_give_the_logits_of_transformers(models):
    """Also across pieces, and with the layers above the sharing point over every position."""
    model, reference = models
    ids = torch.randint(10, model.config.text.vocab_size_per_layer_input, (model.most_in_pass + 60,))
    expected = reference(input_ids=ids[None], logits_to_keep=1).logits[0, -1]

    for skip in (True, False):
        logits = prefill.prefill(model, ids.tolist(), skip=skip)
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)


def test_the_limit_is_that_of_the_weights_and_in_the_end_that_of_full_attention(models):
    model, _ = models
    text = model.config.text
    full = [kind == FULL for kind in text.layer_types]
    short, long = prefill.skip_limit(model, 1), prefill.skip_limit(model, 10_000_000)

    assert 1 < short < text.num_hidden_layers / text.first_shared_layer
    assert long == pytest.approx(sum(full) / sum(full[: text.first_shared_layer]), rel=1e-3)


def test_the_last_line_is_the_result(capsys):
    prefill.main(["--lengths", "8", "20", "--repeat", "1"])
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)

    assert len(table) == 3
    assert {"skip_speedup", "skip_limit", "vs_transformers"} <= result.keys()
    assert [run["length"] for run in result["runs"]] == [8, 20]
    assert max(run["error"] for run in result["runs"]) < 1e-3


@pytest.mark.parametrize("skip", [True, False])
def test_what_a_gpu_would_record_chooses_what_transformers_does(models, monkeypatch, skip):
    """With the layers above the sharing point over every position or not, in two passes."""
    model, reference = models
    monkeypatch.setattr(type(model), "_on_gpu", True)
    ids = torch.randint(10, model.config.text.vocab_size_per_layer_input, (model.most_in_pass + 60,))
    pool = prefill.recorded(model, len(ids), skip=skip)
    chosen = [int(prefill.choose(model, pool, ids.tolist())) for _ in range(2)]
    with torch.inference_mode():
        expected = reference(input_ids=ids[None], logits_to_keep=1).logits[0, -1]

    assert expected[chosen[0]] >= expected[: model.config.vision_vocab_offset].max() - 1e-3
    assert chosen[0] == chosen[1]
    assert pool.steps[None].shapes == 2
