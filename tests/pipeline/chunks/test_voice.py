"""The second opinion: voices at any level and in noise, and nothing else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.chunks.voice import Listener

SECOND = 16_000


def heard(samples):
    """After how many seconds there is a voice; None if there never is one."""
    listener = Listener()
    for at in range(0, len(samples), 480):
        listener.push(samples[at : at + 480])
        if listener.voiced:
            return (at + 480) / SECOND
    return None


@pytest.mark.parametrize("gain", [1.0, 0.01, 20.0], ids=["as it is", "at -40 dB", "clipped"])
def test_a_voice_is_heard_at_any_level(spanish, english, gain):
    """Speech begins after 0.23 and 0.26 s."""
    for speech in (spanish, english):
        assert heard(np.clip(speech * np.float32(gain), -1, 1)) < 0.8


def test_a_voice_is_heard_in_noise(spanish):
    noise = np.random.default_rng(0).normal(0, spanish[4_000:48_000].std() / 3, len(spanish))

    assert heard((spanish + noise).astype(np.float32)) < 0.9


def test_a_word_is_enough(spanish):
    word = np.concatenate([np.zeros(4_800, np.float32), spanish[8_500:13_000], np.zeros(8_000, np.float32)])

    assert heard(word) < 0.9


def test_what_is_no_voice_is_not_heard_as_one():
    rng = np.random.default_rng()
    length = 4 * SECOND
    time = np.arange(length) / SECOND
    struck = np.exp(-6 * (time % 0.25))
    chord = sum(np.sin(2 * np.pi * note * time) for note in (220, 277, 330, 440))
    sounds = {
        "silence": 0 * time,
        "noise": rng.normal(0, 0.1, length),
        "applause": rng.normal(0, 0.2, length) * (rng.uniform(size=length // 160) < 0.3).repeat(160),
        "chords": 0.1 * chord * struck,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time),
    }

    assert [name for name, sound in sounds.items() if heard(sound.astype(np.float32))] == []


def test_a_voice_that_has_gone_is_missed(spanish):
    """From its end on, whatever sounds instead; while it speaks it is never missed for long."""
    noise = np.random.default_rng(1).normal(0, 0.05, 3 * SECOND).astype(np.float32)
    listener, most = Listener(), 0
    for at in range(8_000, 48_000, 480):
        listener.push(spanish[at : at + 480])
        most = max(most, listener.silent if listener.voiced else 0)

    assert most < SECOND
    listener.push(noise)
    assert not listener.voiced
    assert 2 * SECOND < listener.silent <= 3.5 * SECOND


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, 48_000), max_size=8), moved=st.integers(0, 8))
def test_neither_cuts_nor_a_move_to_another_process_matter(spanish, cuts, moved):
    whole, parts = Listener(), Listener()
    whole.push(spanish[:48_000])
    for number, part in enumerate(np.split(spanish[:48_000], sorted(cuts))):
        parts.push(part)
        if number == moved:
            parts = pickle.loads(pickle.dumps(parts))

    assert (parts.voiced, parts.silent) == (whole.voiced, whole.silent)
    for ours, theirs in zip(parts._memory, whole._memory, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_less_than_a_chunk_is_nothing():
    listener = Listener()
    listener.push(np.zeros(0, np.float32))
    listener.push(np.ones(511, np.float32))

    assert (listener.voiced, listener.silent) == (False, 0)
