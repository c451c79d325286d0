"""Codecs: what comes out is the speech that went in, in step with it, and the worse the fewer bits it had."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.training.codecs import SLOWEST, opus


@pytest.fixture
def vowel() -> np.ndarray:
    """Two seconds of a buzz that rises and falls in pitch, with the formants of an a."""
    time = np.arange(32_000) / 16_000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * time)) / 16_000
    gains = {
        n: 1 / (1 + ((120 * n - 700) / 200) ** 2) + 0.5 / (1 + ((120 * n - 1_200) / 200) ** 2)
        for n in range(1, 30)
    }
    buzz = sum(gain * np.sin(n * phase) for n, gain in gains.items())
    return (12_000 * buzz / np.abs(buzz).max()).astype(np.int16)


def noise_db(original: np.ndarray, coded: np.ndarray) -> float:
    error = original.astype(float) - coded
    return 10 * np.log10(np.mean(error**2) / np.mean(original.astype(float) ** 2))


def test_fewer_bits_leave_less(vowel):
    losses = [noise_db(vowel, opus(vowel, bits)) for bits in (SLOWEST, 12_000, 24_000, 96_000)]

    assert losses == sorted(losses, reverse=True)
    assert losses[0] > -12
    assert losses[-1] < -20


@pytest.mark.parametrize("samples", [1, 100, 1_601, 32_000])
def test_it_takes_as_long_as_before(vowel, samples: int):
    coded = opus(vowel[:samples], 24_000)

    assert coded.dtype == np.int16
    assert len(coded) == samples


def test_nothing_is_shifted(vowel):
    coded = opus(vowel, 24_000).astype(float)
    likeness = [np.dot(vowel[500:-500], np.roll(coded, shift)[500:-500]) for shift in range(-40, 41)]

    assert np.argmax(likeness) == 40
