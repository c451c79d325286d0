"""Conditions: each changes what it says, by as much as it says, and the same way every time."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import conditions
from benchmarks.conditions import CONDITIONS


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Two seconds of a buzz at 125 Hz, with a pause in the middle and something above 4 kHz."""
    time = np.arange(32_000) / 16_000
    buzz = sum(np.sin(2 * np.pi * 125 * n * time) / n for n in range(1, 60))
    envelope = np.abs(time - 1) > 0.2
    return (0.3 * buzz * envelope / np.abs(buzz).max()).astype(np.float32)


def pitch(wave: np.ndarray) -> float:
    """Of the first half second, by the first peak of its autocorrelation."""
    part = wave[2_000:10_000]
    likeness = np.fft.irfft(np.abs(np.fft.rfft(part, 16_384)) ** 2)[40:400]
    return 16_000 / (40 + int(np.argmax(likeness)))


def share_of(wave: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / 16_000)
    return float(power[(hertz >= low) & (hertz < high)].sum() / power.sum())


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_clip_stays_a_clip_and_nothing_is_left_to_chance(name: str, clip):
    changed, again = (CONDITIONS[name](clip, 3) for _ in range(2))

    assert changed.dtype == np.float32
    assert 0.05 < np.abs(changed).max() <= 1
    np.testing.assert_array_equal(changed, again)
    assert name == "clean" or not np.array_equal(changed, clip)
    assert len(changed) == pytest.approx(len(clip) * {"fast": 0.8, "slow": 1.25}.get(name, 1), rel=0.002)


@pytest.mark.parametrize(("name", "expected"), [("noise-20db", 20), ("noise-10db", 10), ("noise-0db", 0)])
def test_noise_is_as_loud_as_it_says(name: str, expected: float, clip):
    noisy = CONDITIONS[name](clip, 1)
    scale = np.dot(noisy, clip) / np.dot(clip, clip)
    noise = noisy / scale - clip

    assert 20 * np.log10(np.std(clip) / np.std(noise)) == pytest.approx(expected, abs=0.5)
    assert not np.array_equal(noisy, CONDITIONS[name](clip, 2))


def test_a_room_is_heard_in_the_pause(clip):
    pause = slice(13_000, 15_000)

    assert np.abs(clip[pause]).max() == 0
    echo, direct = (np.std(conditions.reverberant(clip, 1)[part]) for part in (pause, slice(10_000, 12_000)))
    assert 0.05 < echo / direct < 0.5


def test_a_telephone_has_its_band(clip):
    assert share_of(clip, 0, 300) + share_of(clip, 3_400, 8_000) > 0.5
    assert share_of(conditions.telephoned(clip), 300, 3_400) > 0.98


def test_codecs_leave_what_was_said(clip):
    for name, most in (("mu-law", 0.05), ("opus", 0.7)):
        assert np.std(CONDITIONS[name](clip, 0) - clip) < most * np.std(clip)


@pytest.mark.parametrize(("name", "factor"), [("fast", 1), ("slow", 1), ("high", 1.2), ("low", 1 / 1.2)])
def test_pace_and_pitch_change_one_without_the_other(name: str, factor: float, clip):
    changed = CONDITIONS[name](clip, 0)

    assert pitch(clip) == pytest.approx(125, rel=0.02)
    assert pitch(changed) == pytest.approx(125 * factor, rel=0.03)
    # The pause is where it was, in proportion.
    middle = changed[int(0.46 * len(changed)) : int(0.54 * len(changed))]
    assert np.std(middle) < 0.1 * np.std(changed)
