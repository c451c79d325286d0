import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import mel


def naive_log_mel(waveform):
    """The definition, one frame at a time, in float64 and with a dense filterbank."""
    n = np.arange(512)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 512)
    edges = 700 * (10 ** (np.linspace(hz_to_mel(125), hz_to_mel(7600), 130) / 2595) - 1)
    rows = []
    for start in range(0, len(waveform) - 512, 160):
        frame = waveform[start : start + 512].astype(np.float64)
        emphasised = np.concatenate([[0.03 * frame[0]], frame[1:] - 0.97 * frame[:-1]])
        magnitude = np.abs(np.fft.rfft(emphasised * window, n=1024))
        hertz = np.arange(513) * 16_000 / 1024
        mels = [
            magnitude
            @ np.clip(np.minimum((hertz - low) / (peak - low), (high - hertz) / (high - peak)), 0, 1)
            for low, peak, high in zip(edges, edges[1:], edges[2:], strict=False)
        ]
        rows.append(np.log(np.maximum(mels, 1e-5)))
    return np.array(rows).reshape(-1, 128)


def hz_to_mel(hertz):
    return 2595 * np.log10(1 + hertz / 700)


def log_mel(waveform):
    out = np.full((mel.frame_count(len(waveform)), 128), np.nan, dtype=np.float32)
    mel.log_mel(waveform, out)
    return out


@settings(deadline=None, max_examples=25)
@given(
    samples=st.integers(0, 20_000),
    seed=st.integers(0, 2**32 - 1),
    level=st.sampled_from([1e-4, 1e-2, 0.3, 1.0]),
)
def test_log_mel_equals_its_definition(samples, seed, level):
    """log_mel gives what the slow twin gives, for noise of any length and level."""
    waveform = (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)

    np.testing.assert_allclose(log_mel(waveform), naive_log_mel(waveform), atol=1e-4)


def test_silence_is_the_log_of_the_floor():
    """A frame without sound is log(1e-5) in every bin."""
    np.testing.assert_allclose(log_mel(np.zeros(700, np.float32)), np.full((2, 128), np.log(1e-5)), atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (512, 0), (513, 1), (672, 1), (673, 2), (16_000, 97)]
)
def test_frame_count(samples, frames):
    """A frame wants 513 samples, each further one 160 more."""
    assert mel.frame_count(samples) == frames


def test_each_filter_has_weight():
    """No mel bin is so narrow that it falls between two FFT bins."""
    assert (mel.mel_filterbank().sum(axis=0) > 0).all()


@pytest.mark.parametrize(
    ("waveform", "out", "named"),
    [
        (np.zeros(800), np.zeros((2, 128), np.float32), "waveform"),
        (np.zeros((1, 800), np.float32), np.zeros((2, 128), np.float32), "waveform"),
        (np.zeros(1600, np.float32)[::2], np.zeros((2, 128), np.float32), "waveform"),
        (np.zeros(800, np.float32), np.zeros((3, 128), np.float32), "out"),
        (np.zeros(800, np.float32), np.zeros((2, 128)), "out"),
        (np.zeros(800, np.float32), np.zeros((2, 256), np.float32)[:, ::2], "out"),
    ],
)
def test_wrong_arrays_are_named(waveform, out, named):
    """An array of the wrong type, shape or layout is refused by name."""
    with pytest.raises(ValueError, match=f"^{named} must be contiguous float32"):
        mel.log_mel(waveform, out)
