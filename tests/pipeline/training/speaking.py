"""What every voice has to be able to do."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from pipeline.training.engines import missing_packages
from pipeline.training.voices import Voice

SENTENCES = {
    "es": ["Buenos días a todos.", 'Pregunta: "¿vamos (a casa)?".'],
    "fr": ["Bonjour à tous.", 'Question : "on va (chez toi)\u202f?".'],
    "it": ["Buongiorno a tutti.", 'Domanda: "andiamo (a casa)?".'],
    "pt": ["Bom dia a todos.", 'Pergunta: "vamos (para casa)?".'],
    "en": ["Good morning.", 'He said "no".'],
}


def needs(engine: str, *languages: str) -> None:
    missing = missing_packages([engine], languages)
    if missing:
        pytest.skip(f"{engine} is not installed; what is missing: {', '.join(missing)}")


def check(voice: Voice) -> None:
    """The voice says both sentences, at a natural length and a known level, without silence around them."""
    spoken = voice.speak(SENTENCES[voice.language], Random(0))

    assert len(spoken) == 2
    for speech in spoken:
        assert speech is not None, voice.name
        assert speech.pcm.dtype == np.int16
        assert 0.3 < len(speech.pcm) / 16_000 < 6
        assert np.abs(speech.pcm.astype(int)).max() == pytest.approx(29_000, abs=2)
        assert np.abs(speech.pcm[[0, -1]].astype(int)).min() > 200
