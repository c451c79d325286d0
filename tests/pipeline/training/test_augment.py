"""Speech on its way to the model: pieces where they belong, effects within bounds, the exact front end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.audio import mel as frontend
from pipeline.training import augment
from pipeline.training.batches import Batch
from tests.pipeline.training.conftest import band

CPU = torch.device("cpu")
EXACT = augment.UNIFORM_WARPS // 2


def batch_of(examples: int, **pieces: list[float]) -> Batch:
    """A batch that says only which pieces of speech go where."""
    none = np.zeros(0, np.int64)
    floats = ("piece_speed", "piece_gain")
    return Batch(
        np.zeros(examples, np.int64),
        *(
            np.array(pieces[name], np.float32 if name in floats else np.int64)
            for name in (
                "piece_example",
                "piece_source",
                "piece_samples",
                "piece_start",
                "piece_speed",
                "piece_gain",
            )
        ),
        none,
        none,
        none,
        none,
        none,
    )


@pytest.fixture
def pool() -> torch.Tensor:
    """A ramp: every sample tells where it comes from."""
    return torch.arange(20_000, dtype=torch.int16)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.fixture(scope="module")
def banks() -> torch.Tensor:
    return augment.warped_filterbanks(CPU)


def test_pieces_are_placed_exactly(pool):
    batch = batch_of(
        3,
        piece_example=[0, 0, 2],
        piece_source=[1_000, 5_000, 7_000],
        piece_samples=[102, 202, 52],
        piece_start=[10, 300, 0],
        piece_speed=[1, 1, 1],
        piece_gain=[1, 0.5, 1],
    )
    laid_out = augment.gather_speech(pool, batch, 600, CPU) * 32_768
    expected = torch.zeros(3, 600)
    expected[0, 10:110] = torch.arange(1_000.0, 1_100.0)
    expected[0, 300:500] = torch.arange(5_000.0, 5_200.0) / 2
    expected[2, :50] = torch.arange(7_000.0, 7_050.0)

    torch.testing.assert_close(laid_out, expected)


@pytest.mark.parametrize("speed", [0.82, 1.0, 1.2])
def test_a_faster_piece_is_shorter_by_as_much(pool, speed: float):
    batch = batch_of(
        1,
        piece_example=[0],
        piece_source=[2_000],
        piece_samples=[1_002],
        piece_start=[0],
        piece_speed=[speed],
        piece_gain=[1],
    )
    laid_out = augment.gather_speech(pool, batch, 2_000, CPU)[0] * 32_768
    count = int(1_000 / speed)
    spoken = laid_out[: count - 1]

    torch.testing.assert_close(spoken, 2_000 + speed * torch.arange(count - 1), atol=0.02, rtol=0)
    assert not laid_out[count + 1 :].any()


def test_what_does_not_fit_its_example_stays_out_of_the_next(pool):
    batch = batch_of(
        2,
        piece_example=[0],
        piece_source=[9_000],
        piece_samples=[500],
        piece_start=[50],
        piece_speed=[1],
        piece_gain=[1],
    )
    laid_out = augment.gather_speech(pool, batch, 100, CPU)

    assert laid_out[0, 50:].all()
    assert not laid_out[1].any()


def test_no_pieces_are_silence(pool):
    names = ("example", "source", "samples", "start", "speed", "gain")
    batch = batch_of(2, **{f"piece_{name}": [] for name in names})

    assert not augment.gather_speech(pool, batch, 100, CPU).any()


def talk(examples: int = 24, samples: int = 24_000) -> torch.Tensor:
    """Bursts of coloured noise; the last third of the examples is silent."""
    noise = torch.Generator().manual_seed(1)
    wave = torch.randn(examples, samples, generator=noise)
    wave = F.avg_pool1d(wave, 9, 1, 4) * (torch.arange(samples) // 4_000 % 2)
    wave[2 * examples // 3 :] = 0
    return 0.8 * wave / wave.abs().max()


def test_what_a_microphone_delivers_is_audio(generator):
    heard = augment.augment(talk(), generator)

    assert heard.shape == (24, 24_000)
    assert heard.dtype == torch.float32
    assert heard.isfinite().all()
    assert heard.abs().max() <= 1
    # 16 bit: every sample is a multiple of 1 / 32,768. Rooms in which nobody speaks are not silent.
    torch.testing.assert_close(heard * 32_768, (heard * 32_768).round(), atol=0, rtol=0)
    assert (heard.abs().amax(1) > 0).all()


def test_the_generator_decides_what_is_heard():
    first, again, other = (
        augment.augment(talk(6), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )

    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert (first != other).any(1).all()


def test_speech_is_still_where_it_was(generator):
    """Noise, rooms and microphones do not move it: levels go up and down together."""
    speech = talk()[:16]
    levels = [
        torch.nn.functional.avg_pool1d(wave.square()[:, None], 4_000, 4_000)[:, 0]
        for wave in (speech, augment.augment(speech, generator))
    ]
    spoken, heard = (level.view(len(speech), -1, 2) for level in levels)
    louder = heard[..., 1] > heard[..., 0]

    assert (spoken[..., 1] > spoken[..., 0]).all()
    assert louder.float().mean() > 0.8


def test_rooms_have_a_direct_path_and_a_decaying_tail(generator):
    size = 9_600
    response = torch.fft.irfft(augment._room(augment._Dice(generator, 50, CPU), size), size)

    torch.testing.assert_close(response[:, 0], torch.ones(50))
    early, late = response[:, 32:1_600].square().sum(1), response[:, 6_400:8_000].square().sum(1)
    assert (late < early).all()


def test_noise_has_unit_power(generator):
    speech = talk()
    frequency = torch.linspace(0, 8_000, 16_001)
    noise = augment._noise(augment._Dice(generator, len(speech), CPU), speech, frequency, 32_000)

    torch.testing.assert_close(noise.square().mean(1), torch.ones(len(speech)))


def test_the_unwarped_front_end_is_that_of_the_service(banks):
    wave = np.random.default_rng(2).normal(0, 0.1, 16_000).astype(np.float32)
    wave[6_000:9_000] = 0
    expected = torch.from_numpy(frontend.log_mel(wave))
    warps = torch.full((2,), EXACT)
    padded = F.pad(torch.from_numpy(wave).expand(2, -1), (0, 513))
    mel = augment.log_mel(padded, banks, warps)

    assert mel.shape[1] >= len(expected)
    for row in mel[:, : len(expected)]:
        torch.testing.assert_close(row, expected, atol=2e-3, rtol=0)


def test_examples_are_warped_each_by_its_own_filterbank(banks):
    wave = torch.randn(3, 8_000, generator=torch.Generator().manual_seed(0)) / 10
    warps = torch.tensor([0, EXACT, augment.WARPS - 1])
    together = augment.log_mel(wave, banks, warps)
    for row, warp in enumerate(warps):
        alone = augment.log_mel(wave[row : row + 1], banks, warp[None])
        torch.testing.assert_close(together[row], alone[0])


def peaks_of(hertz: float, banks: torch.Tensor, warps: torch.Tensor) -> torch.Tensor:
    """Bands in which a tone is heard through some of the filterbanks."""
    tone = 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(8_000) / 16_000)
    return augment.log_mel(tone.expand(len(warps), -1), banks, warps).mean(1).argmax(1)


def test_uniform_warps_move_a_tone_up_step_by_step(banks):
    peaks = peaks_of(1_500, banks, torch.arange(augment.UNIFORM_WARPS))

    assert (peaks.diff() >= 0).all()
    # A factor of 1.2 to either side.
    for warp, hertz in ((0, 1_250), (EXACT, 1_500), (-1, 1_800)):
        assert abs(int(peaks[warp]) - band(hertz)) <= 1


@pytest.mark.parametrize("speed", [1 / 1.2, 0.9, 1.0, 1.15])
def test_what_only_its_pace_changes_keeps_its_frequencies(banks, speed):
    warp = augment.undoing(torch.tensor([speed]))

    for hertz in (800, 1_500, 3_000):
        assert abs(int(peaks_of(hertz * speed, banks, warp)) - band(hertz)) <= 1


def test_beyond_the_widest_warp_the_widest_is_taken():
    assert augment.undoing(torch.tensor([0.5, 1.0, 2.0])).tolist() == [augment.UNIFORM_WARPS - 1, EXACT, 0]


def test_other_warps_move_each_region_by_a_factor_of_its_own(banks):
    """None of them by more than 1.2, and what was higher stays higher."""
    tones = (500, 1_300, 2_600, 4_100)
    warps = torch.arange(augment.UNIFORM_WARPS, augment.WARPS)
    moved = torch.stack([peaks_of(hertz, banks, warps) for hertz in tones])

    assert (moved.diff(dim=0) > 0).all()
    for peaks, hertz in zip(moved, tones, strict=True):
        assert peaks.min() >= band(hertz / 1.2) - 1
        assert peaks.max() <= band(hertz * 1.2) + 1
        assert len(peaks.unique()) > 5
    # Some go up where others go down.
    lower, higher = (moved[[0, 2]] - torch.tensor([[band(500)], [band(2_600)]])).sign()
    assert (lower * higher == -1).sum() > 5


def test_blurring_takes_the_harmonics_of_some(generator):
    """A comb of narrow lines fades in a quarter of the examples; how loud it is all in all stays."""
    comb = torch.zeros(400, 3, 128)
    comb[..., ::4] = 1.0
    blurred = augment.blur_bands(comb, generator)
    depth = blurred[..., 8:120].amax((1, 2)) - blurred[..., 8:120].amin((1, 2))
    changed = (blurred != comb).any(2).any(1)

    assert changed.float().mean() == pytest.approx(0.25, abs=0.07)
    assert torch.equal(depth[~changed], torch.ones(int((~changed).sum())))
    assert depth.min() < 0.3
    torch.testing.assert_close(blurred[..., 8:120].mean((1, 2)), torch.full((400,), 0.25), atol=0.01, rtol=0)


def test_masks_hide_whole_bands_and_stretches_and_nothing_else(generator):
    mel = torch.randn(40, 120, 128, generator=torch.Generator().manual_seed(3))
    masked = augment.mask_bands(mel, generator)
    hidden = masked != mel
    bands, stretches = hidden.all(1), hidden.all(2)

    assert torch.equal(hidden, bands[:, None, :] | stretches[:, :, None])
    assert masked[hidden].unique().numel() == 1
    assert bands.sum(1).max() <= 2 * 19
    assert stretches.sum(1).max() <= 2 * 17
    assert 0 < bands.any(1).sum() < 40
    assert 0 < stretches.any(1).sum() < 40


def test_gain_is_linear(pool):
    one = batch_of(
        1,
        piece_example=[0],
        piece_source=[100],
        piece_samples=[200],
        piece_start=[0],
        piece_speed=[0.9],
        piece_gain=[1],
    )
    half = replace(one, piece_gain=np.array([0.5], np.float32))

    torch.testing.assert_close(
        augment.gather_speech(pool, half, 300, CPU), augment.gather_speech(pool, one, 300, CPU) / 2
    )


def test_companding_is_finer_where_it_is_quiet():
    loud, quiet = torch.linspace(0.5, 0.6, 100), torch.linspace(0.005, 0.006, 100)
    errors = [(augment.companded(wave) - wave).abs().max().item() for wave in (loud, quiet)]

    assert 0.005 < errors[0] < 0.02
    assert errors[1] < errors[0] / 30
    torch.testing.assert_close(augment.companded(-loud), -augment.companded(loud))


def test_half_of_the_examples_are_faster_here_and_slower_there():
    """But nothing is moved far, none of it changes places, and what stands still stays as it is."""
    ramp = torch.arange(400.0)[None, :, None].expand(200, -1, 4)
    bent = augment.bend_time(ramp, torch.Generator().manual_seed(0))
    moved = bent[..., 0] - ramp[..., 0]

    assert (bent == bent[..., :1]).all()
    paces = bent[:, :, 0].diff(dim=1)
    assert paces.min() >= 0
    # At the ends, where nothing more comes, the last frame stands.
    assert paces.max() <= 1 + augment.MOST_BENT + 1e-3
    assert 70 < (moved.abs().amax(1) > 0.01).sum() < 130
    assert 3 < moved.abs().max() < 16
    still = torch.full((3, 50, 2), 0.7)
    torch.testing.assert_close(augment.bend_time(still, torch.Generator().manual_seed(1)), still)


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_there_may_be_next_to_nothing_to_bend(frames):
    mel = torch.randn(3, frames, 2)

    assert augment.bend_time(mel, torch.Generator().manual_seed(0)).shape == mel.shape
