"""The second opinion: voices at any level and in noise, and nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.chunks.voice import WINDOW, has_voice


def windows(speech):
    """Windows of a recording, within its words."""
    return [speech[at : at + WINDOW] for at in range(6_000, 48_000 - WINDOW, 4_000)]


@pytest.mark.parametrize("gain", [1.0, 0.01, 20.0], ids=["as it is", "at -40 dB", "clipped"])
def test_a_voice_is_heard_at_any_level(spanish, english, gain):
    for speech in (spanish, english):
        heard = [has_voice(np.clip(window * np.float32(gain), -1, 1)) for window in windows(speech)]
        # Between two words there may be too little of either. An utterance takes two misses in a row.
        assert np.mean(heard) > 0.6


def test_a_voice_is_heard_in_noise(spanish):
    noise = np.random.default_rng(0).normal(0, spanish[4_000:48_000].std() / 3, len(spanish))

    assert np.mean([has_voice(window) for window in windows((spanish + noise).astype(np.float32))]) > 0.8


def test_what_is_no_voice_is_not_heard_as_one():
    rng = np.random.default_rng()
    time = np.arange(WINDOW) / 16_000
    struck = np.exp(-6 * (time % 0.25))
    chord = sum(np.sin(2 * np.pi * note * time) for note in (220, 277, 330, 440))
    sounds = {
        "silence": 0 * time,
        "noise": rng.normal(0, 0.1, WINDOW),
        "applause": rng.normal(0, 0.2, WINDOW) * (rng.uniform(size=WINDOW // 160) < 0.3).repeat(160),
        "chords": 0.1 * chord * struck,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time),
    }
    heard = [name for name, sound in sounds.items() if has_voice(sound.astype(np.float32))]

    assert heard == []


def test_less_than_a_chunk_is_nothing():
    assert not has_voice(np.zeros(0, np.float32))
    assert not has_voice(np.ones(511, np.float32))


def test_what_was_asked_before_and_at_the_same_time_makes_no_difference(spanish):
    """All streams of a process ask the same network."""
    asked = [*windows(spanish), *(np.zeros(WINDOW, np.float32) for _ in range(4))]
    alone = [has_voice(window) for window in asked]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(has_voice, asked * 3)) == alone * 3
    assert [has_voice(window) for window in reversed(asked)] == alone[::-1]
