from __future__ import annotations

import random

import torch

from pipeline.encoder.norm import CumulativeGroupNorm, NormState, RMSNorm


def naive_cumulative_group_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """[C, T, F] in float64, straight from the definition."""
    out, distances = torch.empty_like(x), 0.0
    for t in range(x.shape[1]):
        mean = x[:, : t + 1].mean()
        distances = distances + (x[:, t] - mean).square().sum()
        variance = distances / x[:, : t + 1].numel()
        out[:, t] = (x[:, t] - mean) / (variance + eps).sqrt() * weight[:, None]
    return out


def test_rms_norm_multiplies_by_the_weight_itself() -> None:
    norm = RMSNorm(4, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 0.0]))

    x = torch.tensor([[1.0, -1.0, 1.0, -1.0]])

    torch.testing.assert_close(norm(x).detach(), torch.tensor([[1.0, -2.0, 3.0, 0.0]]))


def test_rms_norm_keeps_the_dtype_of_its_input() -> None:
    """bfloat16 activations meet float32 weights under autocast, without a warning."""
    norm = RMSNorm(8, eps=1e-6)
    x = torch.randn(3, 8).bfloat16()

    y = norm(x)

    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, norm(x.float()).bfloat16())


def test_cumulative_group_norm_is_its_definition(rng: random.Random) -> None:
    channels, frames, bins = rng.randint(1, 8), rng.randint(1, 60), rng.randint(1, 8)
    norm = CumulativeGroupNorm(channels, eps=1e-3)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, channels, frames, bins) * 5 + 20

    expected = torch.stack(
        [naive_cumulative_group_norm(clip, norm.weight.detach().double(), 1e-3) for clip in x.double()]
    )

    torch.testing.assert_close(norm(x).detach().double(), expected, atol=1e-4, rtol=0)


def test_cumulative_group_norm_goes_on_from_its_state(rng: random.Random) -> None:
    norm = CumulativeGroupNorm(3, eps=1e-3)
    x = torch.randn(1, 3, 200, 5) + 7
    cut = rng.randint(1, 199)
    state = NormState.initial(torch.device("cpu"))

    pieces = [norm(x[:, :, :cut], state), norm(x[:, :, cut:], state)]

    torch.testing.assert_close(torch.cat(pieces, dim=2), norm(x), atol=1e-5, rtol=0)
    assert state.frames == 200


def test_statistics_stay_exact_after_a_day() -> None:
    """One more frame still counts after 10^7 frames, where float32 sums would have stopped."""
    norm = CumulativeGroupNorm(1, eps=0.0)
    frames = 10**7
    state = NormState(
        mean=torch.full((1,), 8.0 * frames, dtype=torch.float64),
        variance=torch.full((1,), 4.0 * frames, dtype=torch.float64),
        frames=torch.tensor([frames]),
    )
    x = torch.tensor([9.0, 11.0]).expand(1, 1, 100_000, 2)

    norm(x, state)

    assert state.mean.item() == 8.0 * frames + 10.0 * 100_000
    assert state.frames == frames + 100_000
