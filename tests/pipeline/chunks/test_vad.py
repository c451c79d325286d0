import numpy as np
import pytest

from pipeline.chunks.vad import FRAME, Vad
from pipeline.config import GateConfig


def judge(samples, **config):
    whole = len(samples) // FRAME * FRAME
    return Vad(GateConfig(**config)).push(np.ascontiguousarray(samples[:whole], dtype=np.float32))


def speech_share(frames):
    return np.mean([frame.snr > 0 for frame in frames])


def noise(seconds, level, seed=0):
    return 10 ** (level / 20) * np.random.default_rng(seed).standard_normal(round(seconds * 16_000))


def tones(seconds, *frequencies):
    time = np.arange(round(seconds * 16_000)) / 16_000
    return 0.1 * sum(np.sin(2 * np.pi * f * time + f) for f in frequencies)


def test_speech_is_above_the_floor(spanish):
    """Most frames of speech are far above the noise floor, the silence around them is not."""
    frames = judge(np.concatenate([noise(2, -70), spanish[4_000:48_000], noise(2, -70, seed=1)]))

    assert speech_share(frames[67:155]) > 0.8
    assert max(frame.snr for frame in frames) > 15
    assert speech_share(frames[:66]) == 0
    assert speech_share(frames[175:]) == 0


@pytest.mark.parametrize("aggressiveness", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "sound",
    [noise(5, -20), tones(5, 440), tones(5, 50, 100, 150, 250, 350), tones(5, 220, 277, 330), noise(5, -200)],
    ids=["noise", "tone", "hum", "chord", "silence"],
)
def test_steady_sounds_are_no_speech(sound, aggressiveness):
    """What WebRTC's detector calls speech in every mode is next to none, from the first frame on."""
    assert speech_share(judge(sound, aggressiveness=aggressiveness)) < 0.02


def test_beeps_are_no_speech_for_long():
    """A tone that comes and goes is above the floor, but does not change."""
    beeps = tones(10, 425) * (np.arange(160_000) % 16_000 < 8_000)

    assert speech_share(judge(beeps)) < 0.02


def test_a_louder_noise_is_the_new_floor():
    """Noise that becomes 30 dB louder is over the old floor for the time of the floor's window."""
    frames = judge(np.concatenate([noise(3, -60), noise(5, -30)]))

    assert speech_share(frames[100:148]) > 0.9
    assert speech_share(frames[152:]) == 0


@pytest.mark.parametrize("louder", [15, 30])
def test_a_room_that_has_become_louder_is_told_until_its_noise_is_the_floor(louder):
    frames = judge(np.concatenate([noise(3, -60), noise(5, louder - 60)]))
    lifted = [frame.lifted for frame in frames]

    assert not any(lifted[:109])
    assert np.mean(lifted[111:148]) > 0.95
    assert not any(lifted[152:])


@pytest.mark.parametrize("snr", [60, 20, 10])
def test_speech_is_not_taken_for_a_louder_room(spanish, english, snr):
    for seed, speech in enumerate((spanish[4_000:48_000], english[4_500:45_000])):
        room = noise(5, 20 * np.log10(speech.std()) - snr, seed)
        room[32_000 : 32_000 + len(speech)] += speech

        assert not any(frame.lifted for frame in judge(room))


def test_the_pieces_do_not_matter(spanish):
    """Frames are judged alike whether they come one by one or all at once."""
    vad = Vad(GateConfig())
    samples = np.ascontiguousarray(spanish[: 130 * FRAME])
    single = [vad.push(samples[i : i + FRAME])[0] for i in range(0, len(samples), FRAME)]

    assert single == judge(samples)
    assert vad.push(samples[:0]) == []
