"""A stream that was heard beforehand gives encoder and decoder what one that listens gives them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import listening
from benchmarks.lives import PIECE
from benchmarks.streams import speech
from pipeline.batching import run_alone
from pipeline.config import AudioFormat, StreamConfig
from pipeline.model import Gemma3n
from pipeline.speech import SpeechEncoder, SpeechEvent


@pytest.fixture(scope="module")
def model(checkpoint) -> Gemma3n:
    return Gemma3n.from_pretrained(checkpoint)


def plain(events: list[SpeechEvent]) -> list[tuple[object, ...]]:
    """Events without their soft tokens."""
    return [
        (type(event), *(getattr(event, name) for name in event.__slots__ if name != "tokens"))
        for event in events
    ]


def test_events_and_soft_tokens_are_those_of_a_stream_that_listens(model):
    config = StreamConfig(source="es", targets=("en",), audio=AudioFormat("pcm_f32le"))
    audio = speech("es", 20.0, np.random.default_rng())
    heard = listening.listen(model, config, audio, PIECE)
    listener, encoder = listening.Replayed(model, heard), SpeechEncoder(model, config)

    pauses = 0
    for at in range(0, len(audio), PIECE):
        data = audio[at : at + PIECE].tobytes()
        expected = encoder.push(data)
        events = run_alone(listener.steps(b""), model.ears.encode)
        assert plain(events) == plain(expected)
        for event, other in zip(events, expected, strict=True):
            if hasattr(event, "tokens"):
                np.testing.assert_allclose(event.tokens, other.tokens, atol=1e-4)
                pauses += type(event).__name__ == "SpeechPaused"
    assert pauses
    assert listening.front_end_ms([heard], len(audio)) > 0
