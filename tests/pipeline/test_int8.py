"""Weights in int8: small passes read them so, all others compute with the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from pipeline import small
from pipeline.gemma.greedy import Segment
from pipeline.int8 import round_weights
from pipeline.model import Gemma3n


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random model's matrices are narrower than what is worth it."""
    monkeypatch.setattr(small, "LEAST_COLUMNS", 4)


@pytest.fixture
def model(checkpoint) -> Gemma3n:
    return Gemma3n.from_pretrained(checkpoint, dtype=torch.int8)


def matrices(part: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: module.weight
        for name, module in part.named_modules()
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.shape[1] >= 4
    }


def test_every_matrix_is_rounded_and_nothing_else(model, checkpoint):
    whole = Gemma3n.from_pretrained(checkpoint)
    for part, plain in ((model.audio_tower, whole.audio_tower), (model.language_model, whole.language_model)):
        own, others = matrices(part), matrices(plain)
        assert own.keys() == others.keys()
        for name, weight in own.items():
            by_unit = name.endswith("down_proj") and not weight.is_contiguous()
            steps = others[name].abs().amax(0 if by_unit else 1, keepdim=True) / 127
            assert weight.dtype == torch.float32
            assert ((weight - others[name]).abs() <= 0.501 * steps).all(), name
            assert not torch.equal(weight, others[name]), name
        kept = dict(plain.named_parameters())
        for name, parameter in part.named_parameters():
            if name.removesuffix(".weight") not in own:
                assert torch.equal(parameter, kept[name]), name


def test_small_passes_are_those_of_the_rounded_weights(model, monkeypatch):
    """Steps, drafts, soft tokens: what is read as int8 chooses what float32 chooses."""
    end = min(model.config.vision_vocab_offset, model.config.audio.vocab_offset)
    pool = model.new_pool()
    quick, plain = (model.new_cache(pool) for _ in range(2))
    for _ in range(8):
        ids = [random.randrange(end) for _ in range(random.randint(1, 6))]
        (got,) = model.step([Segment(quick, ids, len(ids))])
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.model.suits", lambda *_: False)
            (want,) = model.step([Segment(plain, ids, len(ids))])
        assert got == want


def test_weights_are_converted_once_for_all_pools(model, monkeypatch):
    """Not anew for each sequence with a pool of its own."""
    (first,) = model.step([Segment(model.new_cache(), [5, 6], 1)])
    monkeypatch.setattr("pipeline.gemma.quick.matrix_of", None)

    assert model.step([Segment(model.new_cache(), [5, 6], 1)]) == [first]


def test_the_encoder_hears_with_them_too(model):
    wave = torch.randn(24_000) * 0.1
    stream = model.audio_stream()
    tokens = torch.cat([stream.push(wave[at : at + 2_560]) for at in range(0, len(wave), 2_560)])
    whole = model.encode_audio(wave)[: len(tokens)]

    assert model.ears.encoder.quick is not None
    torch.testing.assert_close(tokens, whole, rtol=1e-3, atol=1e-3)


def test_rounding_again_changes_nothing(model):
    before = {name: weight.clone() for name, weight in matrices(model.language_model).items()}
    round_weights(model.language_model)
    for name, weight in matrices(model.language_model).items():
        torch.testing.assert_close(weight, before[name], rtol=1e-6, atol=0)


def test_only_on_the_cpu(checkpoint):
    with pytest.raises(ValueError, match="weights in int8 are for the CPU, not for meta"):
        Gemma3n.from_pretrained(checkpoint, "meta", torch.int8)
