"""Random encoders: fresh seeds in every run, printed so that a failure can be repeated."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config import AudioConfig
from pipeline.encoder.conformer import AudioEncoder


@pytest.fixture(params=range(6))
def seed(request: pytest.FixtureRequest) -> int:
    """A seed that was never used before; six of them to each test that asks for it."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    return seed


@pytest.fixture
def rng(seed: int) -> random.Random:
    torch.manual_seed(seed)
    return random.Random(seed)


def _random_options(rng: random.Random) -> dict[str, Any]:
    heads = rng.choice([1, 2, 4])
    return {
        "vocab_size": rng.randint(2, 128),
        "vocab_offset": rng.randint(0, 1000),
        "input_feat_size": rng.randint(8, 128),
        "hidden_size": 8 * rng.randint(3, 8),
        "rms_norm_eps": rng.choice([1e-6, 1e-2]),
        "gradient_clipping": rng.choice([1e10, 3.0]),
        "conf_attention_chunk_size": rng.randint(1, 16),
        "conf_attention_context_left": rng.randint(1, 16),
        "conf_attention_logit_cap": rng.choice([2.0, 50.0]),
        "conf_num_attention_heads": heads,
        "conf_num_hidden_layers": rng.randint(1, 3),
        "conf_conv_kernel_size": rng.randint(1, 6),
        "conf_reduction_factor": rng.randint(1, 4),
        "conf_residual_weight": rng.choice([0.5, 1.0]),
        "sscp_conv_channel_size": [rng.randint(8, 16), rng.randint(8, 16)],
        "sscp_conv_group_norm_eps": rng.choice([1e-3, 1e-1]),
        "sscp_conv_kernel_size": [[rng.randint(2, 4), 3], [rng.randint(3, 4), rng.randint(2, 3)]],
        "sscp_conv_stride_size": [[rng.randint(1, 2), 2], [rng.randint(1, 3), rng.randint(1, 2)]],
    }


def _scramble(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0, 0.3)
        else:
            nn.init.normal_(parameter, 0.0, parameter[0].numel() ** -0.5)


@pytest.fixture
def options(rng: random.Random) -> dict[str, Any]:
    """Random arguments of an audio configuration, ours or transformers'."""
    options = _random_options(rng)
    print(options)
    return options


@pytest.fixture
def scramble() -> Callable[[nn.Module], None]:
    """Give a module random weights, those that start at one or zero included."""
    return _scramble


@pytest.fixture(scope="module")
def small_encoder() -> AudioEncoder:
    """The published architecture at a small width, with fresh random weights."""
    seed = secrets.randbits(32)
    print(f"small_encoder seed = {seed}")
    torch.manual_seed(seed)
    encoder = AudioEncoder(
        AudioConfig(
            input_feat_size=16,
            hidden_size=32,
            conf_num_attention_heads=4,
            conf_num_hidden_layers=3,
            sscp_conv_channel_size=(16, 16),
        )
    )
    _scramble(encoder)
    return encoder.eval()


@pytest.fixture
def log_mel() -> Callable[[int, int], torch.Tensor]:
    """Make [frames, bins] with the range of real log-mel and with jumps in level.

    The bins differ so much because flat frames may leave all channels of the stem below zero; the
    norms behind its ReLU then magnify rounding without bound, in the reference as in ours.
    """
    return _log_mel


def _log_mel(frames: int, bins: int) -> torch.Tensor:
    level = torch.randn(-(-frames // 50), 1).mul(2).repeat_interleave(50, dim=0)[:frames]
    return (level + 3 * torch.randn(frames, bins) - 4).clamp(min=-11.5)


@pytest.fixture(scope="module")
def long_mel() -> torch.Tensor:
    """120 s for the small encoder, [12000, 16]."""
    return _log_mel(12_000, 16)
