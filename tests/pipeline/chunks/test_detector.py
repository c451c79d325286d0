"""A detector that was written down judges on as if nothing had happened."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import webrtcvad

from pipeline.audio.files import read_audio
from pipeline.chunks.detector import Detector

FRAME = 480


@pytest.fixture(name="frames", scope="module")
def _frames(recording):
    """Quiet speech in noise, where verdicts hang on what was heard before."""
    speech = read_audio(recording)[: FRAME * 400]
    noise = np.random.default_rng().normal(0, 0.01, len(speech))
    pcm = np.clip((speech * 0.1 + noise) * 32_768, -32_768, 32_767).astype("<i2").tobytes()
    return [pcm[start : start + 2 * FRAME] for start in range(0, len(pcm), 2 * FRAME)]


def judge(detector, frames):
    return [detector.is_speech(frame, 16_000) for frame in frames]


@pytest.mark.parametrize("mode", range(4))
def test_judges_as_webrtc_does(frames, mode):
    assert judge(Detector(mode), frames) == judge(webrtcvad.Vad(mode), frames)


def test_goes_on_where_it_was_written_down(frames):
    fresh = []
    for mode in range(4):
        verdicts = judge(Detector(mode), frames)
        assert len(set(verdicts)) == 2
        for cut in (1, 37, 200):
            first = Detector(mode)
            judge(first, frames[:cut])
            written = pickle.dumps(first)
            judge(first, frames[:50])  # what the original hears since is not the copy's affair
            assert judge(pickle.loads(written), frames[cut:]) == verdicts[cut:]
            fresh.append(judge(Detector(mode), frames[cut:]) == verdicts[cut:])

    assert not all(fresh)  # it matters what was heard before


def test_is_small():
    assert len(pickle.dumps(Detector(2))) < 1_000
