"""The bundled model: complete, small, and the same in transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import Gemma3n, translate
from pipeline.audio.files import read_audio
from pipeline.cli import NANO
from pipeline.layout import describe
from pipeline.training.text import LANGUAGES
from tests import reference

BYTES = 40_000_000


@pytest.fixture(scope="module")
def nano() -> Gemma3n:
    return Gemma3n.from_pretrained(NANO)


def test_it_is_small():
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= BYTES


def test_it_has_every_part_of_the_big_ones(nano: Gemma3n):
    text = nano.config.text

    assert {part.name for part in describe(NANO).parts if part.parameters} >= {
        "per-layer embeddings",
        "embeddings",
        "text core",
        "audio",
    }
    assert 0 < text.num_kv_shared_layers < text.num_hidden_layers
    assert set(text.layer_types) == {"full_attention", "sliding_attention"}
    assert any(text.activation_sparsity_pattern)
    assert text.altup_num_inputs > 1
    assert nano.languages == LANGUAGES
    assert nano.prompt.takes_context


@torch.no_grad()
def test_it_says_the_same_in_transformers(nano: Gemma3n, recording: Path):
    """Greedy text of real speech, with the audio padded as the reference pads it, but to fewer tokens.

    It was never trained with padding, and behind 188 tokens that are mostly padding it says next to nothing.
    """
    theirs = reference.load(NANO)
    samples = read_audio(recording)[: 16_000 * 4]
    useful = reference.soft_tokens(theirs, samples)
    audio = nano.encode_audio(samples)[: len(useful)]
    torch.testing.assert_close(audio, useful, atol=1e-4, rtol=0)

    theirs.config.audio_soft_tokens_per_image = places = len(audio) + 3
    before, after = nano.prompt.before_audio("es", "en"), nano.prompt.after_audio()
    fill = [nano.config.text.vocab_size - 1] * (places - len(audio))
    asked = [*before, *[nano.config.audio_token_id] * len(audio), *fill, *after]
    ours = nano.generate(asked, audio, max_new_tokens=40)

    padded = [*before, *[nano.config.audio_token_id] * places, *after]
    said: list[int] = []
    while len(said) < 40:
        logits = reference.logits(theirs, [*padded, *said], samples)[-1, : nano.config.vision_vocab_offset]
        choice = int(logits.argmax())
        if choice in nano.config.eos_token_ids:
            break
        said.append(choice)

    assert len(ours) > 5
    assert nano.tokenizer.decode(ours) == nano.tokenizer.decode(said)


def test_silence_and_noise_are_answered_with_nothing(nano: Gemma3n):
    noise = np.random.default_rng(0).normal(0, 0.05, 160_000).astype(np.float32)

    assert translate(nano, noise, "es", ["en"]).utterances == []
    assert translate(nano, np.zeros(160_000, np.float32), "es", ["en"]).utterances == []


def test_quiet_and_clipped_speech_is_heard_as_loud_speech_is(nano: Gemma3n, recording: Path):
    """At 30 dB less, and so loud that most of it is clipped."""
    speech = read_audio(recording)[: 16_000 * 7]
    loud = [said.transcript for said in translate(nano, speech, "es", ["en"]).utterances]

    for changed in (speech * np.float32(10 ** (-30 / 20)), np.clip(speech * 12, -1, 1)):
        assert [said.transcript for said in translate(nano, changed, "es", ["en"]).utterances] == loud


@pytest.mark.parametrize("milliseconds", [20, 100, 200, 290])
def test_a_scrap_of_speech_is_a_word_or_two_or_nothing(nano: Gemma3n, recording: Path, milliseconds: int):
    speech = read_audio(recording)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        begin, length = int(rng.integers(8_000, 80_000)), milliseconds * 16
        scrap = rng.normal(0, 3e-4, 48_000).astype(np.float32)
        scrap[24_000 : 24_000 + length] += speech[begin : begin + length]
        said = translate(nano, scrap, "es", ["en"]).utterances

        assert len(said) <= 1
        assert all(len(one.transcript.split()) <= 3 for one in said)
