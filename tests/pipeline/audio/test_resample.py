import pickle

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.resample import Resampler


def noise(samples):
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    rate=st.sampled_from([8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]),
    samples=st.integers(0, 60_000),
    cuts=st.lists(st.integers(0, 30_000) | st.integers(0, 50), max_size=30),
)
def test_pieces_give_the_samples_of_the_whole(rate, samples, cuts):
    """However the input is cut, the output is bit for bit that of libsoxr for the whole of it."""
    signal = noise(samples)
    resampler = Resampler(rate)
    pieces, start = [], 0
    for cut in [*cuts, samples]:
        pieces.append(resampler.push(signal[start : start + cut]))
        start += cut

    joined = np.concatenate([*pieces, resampler.flush()])

    np.testing.assert_array_equal(joined, soxr.resample(signal, rate, 16_000))


def test_16_khz_passes_through():
    """Nothing is held back or changed where there is nothing to resample."""
    resampler = Resampler(16_000)

    np.testing.assert_array_equal(resampler.push(noise(100)), noise(100))
    assert len(resampler.flush()) == 0


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_a_tone_stays_a_tone(rate):
    """The pitch, level and phase of a tone are kept."""
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)).astype(np.float32)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    resampler = Resampler(rate)

    resampled = np.concatenate([resampler.push(tone), resampler.flush()])

    assert len(resampled) == 16_000
    np.testing.assert_allclose(resampled[2000:-2000], expected[2000:-2000], atol=1e-4)


def test_a_flushed_resampler_is_as_new():
    """What was pushed before a flush has no influence on what comes after it."""
    resampler = Resampler(48_000)
    resampler.push(noise(10_000) + np.float32(0.3))
    resampler.flush()

    after = np.concatenate([resampler.push(noise(5000)), resampler.flush()])

    np.testing.assert_array_equal(after, soxr.resample(noise(5000), 48_000, 16_000))


def test_little_is_held_back():
    """Live audio is at most 120 ms late."""
    for rate in (8_000, 22_050, 44_100, 48_000, 192_000):
        resampler = Resampler(rate)
        received = sum(len(resampler.push(noise(rate // 100))) for _ in range(200))
        assert received >= 16_000 * (2 - 0.12), rate


RATES = [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000]


@settings(deadline=None, max_examples=30)
@given(rate=st.sampled_from(RATES), cuts=st.lists(st.integers(0, 4_000), max_size=30))
def test_how_much_comes_out_depends_on_how_much_went_in(rate, cuts):
    """Not on the cuts, and not on where libsoxr's blocks began."""
    signal = noise(sum(cuts))
    resampler, start, came = Resampler(rate), 0, 0
    for cut in cuts:
        came += len(resampler.push(signal[start : start + cut]))
        start += cut
        assert came == len(Resampler(rate).push(signal[:start]))


@settings(deadline=None, max_examples=30)
@given(rate=st.sampled_from(RATES), cut=st.floats(0, 3), piece=st.integers(1, 5_000))
def test_a_copy_goes_on_in_step(rate, cut, piece):
    """Sample by sample, and with as many of them at a time."""
    cut = int(cut * rate)
    signal = noise(cut + rate // 2)
    original = Resampler(rate)
    original.push(signal[:cut])
    copy = pickle.loads(pickle.dumps(original))

    for start in range(cut, len(signal), piece):
        there, here = (one.push(signal[start : start + piece]) for one in (original, copy))
        np.testing.assert_allclose(here, there, atol=1e-6, strict=True)
    np.testing.assert_allclose(copy.flush(), original.flush(), atol=1e-6, strict=True)
