import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import bands


def naive_description(samples):
    """Level and change of each frame, straight from the definition, in float64."""
    n = np.arange(480)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 480)
    window *= np.sqrt(2 / (512 * np.sum(window**2)))
    mels = np.linspace(2595 * np.log10(1 + 200 / 700), 2595 * np.log10(1 + 4000 / 700), 17)
    edges = np.round(700 * (10 ** (mels / 2595) - 1) * 512 / 16_000).astype(int)
    previous = np.full(16, 10 * np.log10(2e-10))
    rows = []
    for frame in samples.astype(np.float64).reshape(-1, 480):
        power = np.abs(np.fft.rfft(frame * window, n=512)) ** 2
        powers = np.array([power[a:b].sum() for a, b in itertools.pairwise(edges)]) + 2e-10
        levels = 10 * np.log10(powers)
        difference = levels - previous
        drift = np.average(difference, weights=np.sqrt(powers))
        rows.append((levels.mean(), np.average(np.abs(difference - drift), weights=np.sqrt(powers))))
        previous = levels
    return np.array(rows).reshape(-1, 2)


def describe(samples, state=None):
    out = np.full((len(samples) // 480, 2), np.nan, dtype=np.float32)
    bands.describe_frames(samples, bands.silence() if state is None else state, out)
    return out


@settings(deadline=None, max_examples=25)
@given(
    frames=st.integers(0, 150),
    seed=st.integers(0, 2**32 - 1),
    level=st.sampled_from([0.0, 1e-5, 1e-2, 1.0]),
)
def test_description_equals_its_definition(frames, seed, level):
    """describe_frames gives what the slow twin gives."""
    samples = (level * np.random.default_rng(seed).standard_normal(480 * frames)).astype(np.float32)

    np.testing.assert_allclose(describe(samples), naive_description(samples), atol=1e-3)


@given(cut=st.integers(0, 9))
def test_a_stream_may_come_in_several_calls(cut):
    """The state carries the last frame's bands over."""
    samples = np.random.default_rng(0).standard_normal(480 * 9).astype(np.float32)
    state = bands.silence()
    parts = [describe(samples[: 480 * cut], state), describe(samples[480 * cut :], state)]

    np.testing.assert_array_equal(np.concatenate(parts), describe(samples))


def test_full_scale_noise_has_its_level():
    """The powers of all bands of white noise sum up to its share below 4 kHz."""
    noise = np.random.default_rng(0).standard_normal(480 * 400).astype(np.float32)
    state = bands.silence()
    powers = []
    for frame in noise.reshape(-1, 480):
        describe(frame, state)
        powers.append(10 ** (state / 10))

    assert np.mean(np.sum(powers, axis=1)) == pytest.approx((4000 - 200) / 8000, rel=0.05)


def test_a_tone_that_dies_away_does_not_change():
    """The change is that of the spectrum's shape, not of its level."""
    time = np.arange(480 * 40) / 16_000
    change = describe((0.5 * np.exp(-3 * time) * np.sin(2 * np.pi * 440 * time)).astype(np.float32))[1:, 1]

    assert change.max() < 0.1


@pytest.mark.parametrize(
    ("samples", "state", "out", "named"),
    [
        (np.zeros(960), bands.silence(), np.zeros((2, 2), np.float32), "samples"),
        (np.zeros(961, np.float32), bands.silence(), np.zeros((2, 2), np.float32), "samples"),
        (np.zeros(960, np.float32), np.zeros(16), np.zeros((2, 2), np.float32), "bands"),
        (np.zeros(960, np.float32), bands.silence(), np.zeros((1, 2), np.float32), "out"),
    ],
)
def test_wrong_arrays_are_named(samples, state, out, named):
    """An array of the wrong type, shape or layout is refused by name."""
    with pytest.raises(ValueError, match=f"^{named} must be contiguous float32"):
        bands.describe_frames(samples, state, out)
