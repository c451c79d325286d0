import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma3nAudioFeatureExtractor

from pipeline.audio.mel import MelFrontend, log_mel

REFERENCE = Gemma3nAudioFeatureExtractor()


def golden_wave():
    """Two tones and a chirp; 20,837 samples are a multiple of neither the hop nor the padding."""
    t = np.arange(20_837) / 16_000
    tones = 0.4 * np.sin(2 * np.pi * 220 * t) + 0.05 * np.sin(2 * np.pi * 3100 * t)
    return (tones + 0.2 * np.sin(2 * np.pi * (300 + 900 * t) * t)).astype(np.float32)


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def pushed(waveform, cuts):
    """The frames of a stream that is cut into pieces of the given lengths, over and over."""
    frontend = MelFrontend()
    frames, start, turn = [], 0, 0
    while start < len(waveform):
        frames.append(frontend.push(waveform[start : start + cuts[turn % len(cuts)]]))
        start += cuts[turn % len(cuts)]
        turn += 1
    return np.concatenate([*frames, frontend.flush()])


def test_statistics_of_the_published_extractor():
    """The released checkpoint's extractor gives these values for this wave."""
    frames = log_mel(golden_wave())

    assert frames.shape == (128, 128)
    assert frames.dtype == np.float32
    assert frames.mean() == pytest.approx(-6.13652, abs=1e-4)
    assert frames.std() == pytest.approx(3.74858, abs=1e-4)
    assert frames.max() == pytest.approx(4.18331, abs=1e-4)
    assert frames.min() == pytest.approx(-11.51293, abs=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    samples=st.integers(1, 60_000),
    seed=st.integers(0, 2**32 - 1),
    tone=st.floats(0, 1),
    hiss=st.sampled_from([0.0, 1e-5, 0.1]),
)
def test_frames_equal_those_of_transformers(samples, seed, tone, hiss):
    """log_mel agrees with Gemma3nAudioFeatureExtractor, for loud pure tones too."""
    rng = np.random.default_rng(seed)
    wave = tone * np.sin(2 * np.pi * rng.uniform(50, 7900) * np.arange(samples) / 16_000)
    wave = (wave + hiss * rng.standard_normal(samples)).astype(np.float32)

    expected = REFERENCE(wave, return_tensors="np")["input_features"][0]
    frames = log_mel(wave)

    assert frames.shape == expected.shape
    np.testing.assert_allclose(frames, expected, atol=1e-4)


def test_long_audio_is_not_truncated():
    """Where the reference stops at 30 seconds, log_mel goes on."""
    assert log_mel(noise(16_000 * 31)).shape == (3097, 128)


@settings(deadline=None, max_examples=30)
@given(
    samples=st.integers(0, 200_000),
    cuts=st.lists(st.integers(1, 160_000) | st.integers(1, 700), min_size=1, max_size=5).filter(
        lambda cuts: sum(cuts) > 100 * len(cuts)
    ),
)
def test_pieces_give_the_frames_of_the_whole(samples, cuts):
    """Pieces of 1 sample to 10 seconds give bit for bit the frames of the whole."""
    waveform = noise(samples)

    np.testing.assert_array_equal(pushed(waveform, cuts), log_mel(waveform))


def test_single_samples_give_the_frames_of_the_whole():
    """A stream may come sample by sample."""
    np.testing.assert_array_equal(pushed(noise(3000), [1]), log_mel(noise(3000)))


def test_a_frame_comes_with_its_last_sample():
    """Frame k is returned by the push that brings sample 160 k + 513, not later."""
    frontend = MelFrontend()

    assert len(frontend.push(noise(512))) == 0
    assert len(frontend.push(noise(1))) == 1
    assert len(frontend.push(noise(159))) == 0
    assert len(frontend.push(noise(1))) == 1


def test_a_flushed_frontend_is_as_new():
    """What was pushed before a flush has no influence on what comes after it."""
    frontend = MelFrontend()
    frontend.push(noise(1000, seed=1))
    frontend.flush()

    frames = [frontend.push(noise(1000)), frontend.flush()]

    np.testing.assert_array_equal(np.concatenate(frames), log_mel(noise(1000)))
    assert frontend.flush().shape == (0, 128)
