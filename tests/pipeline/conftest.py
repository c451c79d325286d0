"""Models and audio for whole streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.audio.files import read_audio
from pipeline.config import AudioFormat, StreamConfig
from pipeline.model import Gemma3n
from pipeline.speech import SpeechEncoder, SpeechEvent


@pytest.fixture(scope="session")
def babbler(checkpoint: Path) -> Gemma3n:
    """A complete model with random weights: what it says means nothing, but everything is real."""
    with torch.random.fork_rng():
        return Gemma3n.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def listener(listening_checkpoint: Path) -> Gemma3n:
    """The same, said to have been made to be told something before the audio."""
    with torch.random.fork_rng():
        return Gemma3n.from_pretrained(listening_checkpoint)


@pytest.fixture(scope="session")
def speech() -> NDArray[np.float32]:
    """A recording of somebody reading a sentence, float32 [samples] at 16 kHz."""
    return read_audio(Path(__file__).parents[1] / "data" / "speech-en.flac")


@pytest.fixture(scope="session")
def talk(speech: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same recording three times, with pauses of 1.2 s: three utterances in 14 s."""
    pause = np.random.default_rng(0).normal(0, 1e-3, 19_200).astype(np.float32)
    return np.concatenate([pause, *[speech, pause] * 3])


@pytest.fixture(scope="session")
def heard(babbler: Gemma3n, talk: NDArray[np.float32]) -> list[SpeechEvent]:
    """Speech events of the three utterances."""
    encoder = SpeechEncoder(babbler, StreamConfig(audio=AudioFormat("pcm_f32le")))
    return [*encoder.push(talk.tobytes()), *encoder.flush()]
