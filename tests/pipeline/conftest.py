"""Models and audio for whole streams."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.audio.files import read_audio
from pipeline.model import Gemma3n


@pytest.fixture(scope="session")
def babbler(checkpoint: Path) -> Gemma3n:
    """A complete model with random weights: what it says means nothing, but everything is real."""
    with torch.random.fork_rng():
        return Gemma3n.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def listener(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Gemma3n:
    """The same, said to have been made to be told something before the audio."""
    folder = tmp_path_factory.mktemp("listener") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    template = json.loads((folder / "surtitle.json").read_text(encoding="utf-8"))
    template["context"] = "What is known: {context}"
    (folder / "surtitle.json").write_text(json.dumps(template), encoding="utf-8")
    with torch.random.fork_rng():
        return Gemma3n.from_pretrained(folder)


@pytest.fixture(scope="session")
def speech() -> NDArray[np.float32]:
    """A recording of somebody reading a sentence, float32 [samples] at 16 kHz."""
    return read_audio(Path(__file__).parents[1] / "data" / "speech-en.flac")


@pytest.fixture(scope="session")
def talk(speech: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same recording three times, with pauses of 1.2 s: three utterances in 14 s."""
    pause = np.random.default_rng(0).normal(0, 1e-3, 19_200).astype(np.float32)
    return np.concatenate([pause, *[speech, pause] * 3])
