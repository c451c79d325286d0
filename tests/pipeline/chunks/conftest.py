from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="session", name="spanish")
def _spanish():
    """Four seconds of Spanish, peak 0.5, spoken from 0.23 to 3.10 s in a quiet room."""
    samples, rate = soundfile.read(DATA / "speech-es.flac", dtype="float32")
    samples = soxr.resample(samples, rate, 16_000)
    return samples * (0.5 / np.abs(samples).max())


@pytest.fixture(scope="session", name="english")
def _english():
    """Three seconds of English, peak 0.5, spoken from 0.26 to 2.84 s in a noisy room."""
    samples, _ = soundfile.read(DATA / "speech-en.flac", dtype="float32")
    return samples * np.float32(0.5 / np.abs(samples).max())
