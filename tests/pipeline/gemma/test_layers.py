from __future__ import annotations

import dataclasses
import secrets

import pytest
import torch
from transformers import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextAltUp

from kernels.ffn import sparse_feed_forward
from pipeline.config import TextConfig
from pipeline.gemma import layers
from pipeline.gemma.layers import MLP, AltUp, match_magnitude
from tests import reference

CONFIG = TextConfig.from_dict(
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_kv_shared_layers": 0,
        "intermediate_size": 2000,
        "activation_sparsity_pattern": [0.95, 0.0],
        "altup_num_inputs": 3,
        "altup_coef_clip": 0.2,
    }
)


def test_gaussian_top_k_keeps_the_share_of_units_it_promises():
    """Over the width in use, also if that is only a part of the layer."""
    torch.manual_seed(0)
    mlp = MLP(CONFIG, 0)
    kept = []
    mlp.down_proj.weight.data.zero_()
    x = torch.randn(200, 32)
    for width in (2000, 1000):
        seen: list[torch.Tensor] = []
        original = torch.nn.functional.gelu

        def spy(gate, approximate, seen=seen, original=original):
            seen.append(gate)
            return original(gate, approximate=approximate)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "gelu", spy)
            mlp(x, width)
        kept.append((seen[0] > 0).float().mean().item())

    assert kept == pytest.approx([0.05, 0.05], abs=0.01)


def test_dense_layers_keep_all_units():
    mlp = MLP(CONFIG, 1)
    assert mlp.threshold is None


@pytest.mark.parametrize(("sparsity", "most"), [(0.95, 32), (0.8, 20), (0.5, 8), (0.4, 0), (0.0, 0)])
@torch.no_grad()
def test_few_positions_are_gathered_to_the_same_result(monkeypatch, sparsity, most):
    """Where it is faster, and nowhere else; over any part of the width."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    torch.manual_seed(seed)
    config = dataclasses.replace(CONFIG, activation_sparsity_pattern=(sparsity, 0.0))
    plain, laid_out = MLP(config, 0), MLP(config, 0)
    laid_out.load_state_dict(plain.state_dict())
    laid_out.lay_out()
    gathered = []

    def spy(x, *matrices, z, out):
        gathered.append(len(x))
        sparse_feed_forward(x, *matrices, z=z, out=out)

    monkeypatch.setattr(layers, "sparse_feed_forward", spy)
    for count in (1, 2, 8, 9, 20, 21, 32, 33):
        for width in (None, 700):
            gathered.clear()
            x = torch.randn(count, 1, 64)[..., ::2]
            torch.testing.assert_close(laid_out(x, width), plain(x, width), atol=1e-4, rtol=0)
            assert gathered == ([count] if count <= most else [])


@torch.no_grad()
def test_other_numbers_and_many_threads_are_left_to_the_dense_product(monkeypatch):
    half, single = MLP(CONFIG, 0).to(torch.bfloat16), MLP(CONFIG, 0)
    for mlp in (half, single):
        mlp.lay_out()
    monkeypatch.delattr(layers, "sparse_feed_forward")

    assert half(torch.randn(1, 32).bfloat16()).isfinite().all()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert single(torch.randn(1, 32)).isfinite().all()


def test_altup_clips_its_coefficients_in_training_only():
    """As transformers does, which clips the stored weights in passing."""
    torch.manual_seed(1)
    ours = AltUp(CONFIG)
    theirs = Gemma3nTextAltUp(
        Gemma3nTextConfig(hidden_size=32, altup_num_inputs=3, altup_coef_clip=0.2, laurel_rank=8)
    )
    reference.scramble(ours)
    theirs.load_state_dict(ours.state_dict())
    streams, activated = torch.randn(3, 2, 5, 32), torch.randn(2, 5, 32)
    outputs = {}
    for training in (False, True):
        ours.train(training)
        theirs.train(training)
        with torch.no_grad():
            outputs[training] = ours.correct(ours.predict(streams), activated)
            expected = theirs.correct(theirs.predict(streams), activated)
        torch.testing.assert_close(outputs[training], expected, atol=1e-5, rtol=0)

    assert (outputs[True] - outputs[False]).abs().max() > 0.1


def test_altup_can_have_another_active_stream():
    torch.manual_seed(2)
    ours = AltUp(dataclasses.replace(CONFIG, altup_active_idx=2))
    theirs = Gemma3nTextAltUp(
        Gemma3nTextConfig(hidden_size=32, altup_num_inputs=3, altup_active_idx=2, laurel_rank=8)
    ).eval()
    reference.scramble(ours.eval())
    theirs.load_state_dict(ours.state_dict())
    streams, activated = torch.randn(3, 2, 5, 32), torch.randn(2, 5, 32)

    with torch.no_grad():
        torch.testing.assert_close(
            ours.correct(ours.predict(streams), activated),
            theirs.correct(theirs.predict(streams), activated),
            atol=1e-5,
            rtol=0,
        )


def test_altup_predicts_the_same_where_it_is_compiled():
    """There its mixing is written out; tracing it is enough to see that."""
    altup = AltUp(CONFIG).eval()
    for parameter in altup.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    streams = torch.randn(3, 2, 5, 32)
    traced = torch.compile(altup.predict, backend="eager", fullgraph=True, dynamic=True)

    with torch.no_grad():
        torch.testing.assert_close(traced(streams), altup.predict(streams), atol=1e-5, rtol=1e-5)


def test_match_magnitude_gives_the_rms_of_the_reference():
    x, like = torch.randn(4, 32), 3 * torch.randn(4, 32)

    torch.testing.assert_close(
        match_magnitude(x, like).square().mean(-1), like.square().mean(-1), atol=1e-4, rtol=1e-4
    )


def test_match_magnitude_leaves_zeros_alone():
    assert match_magnitude(torch.zeros(2, 8), torch.ones(2, 8)).abs().max() == 0
