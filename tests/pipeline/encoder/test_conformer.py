from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Gemma3nAudioConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder

from pipeline.config import AudioConfig
from pipeline.encoder.conformer import AudioEncoder

Mel = Callable[[int, int], torch.Tensor]


def make_pair(
    options: dict[str, Any], scramble: Callable[[nn.Module], None]
) -> tuple[Gemma3nAudioEncoder, AudioEncoder]:
    """The reference and ours with the same weights, read by their names."""
    reference = Gemma3nAudioEncoder(Gemma3nAudioConfig(**options)).eval()
    scramble(reference)
    encoder = AudioEncoder(AudioConfig.from_dict(reference.config.to_dict())).eval()
    encoder.load_state_dict(reference.state_dict(), strict=True)
    return reference, encoder


def test_encodings_are_those_of_transformers(
    options: dict[str, Any], scramble: Callable[[nn.Module], None], rng: random.Random, log_mel: Mel
) -> None:
    reference, encoder = make_pair(options, scramble)
    for frames in (1, rng.randint(2, 40), rng.randint(200, 600)):
        mel = torch.stack([log_mel(frames, options["input_feat_size"]) for _ in range(2)])

        with torch.no_grad():
            expected = reference(mel, torch.zeros(2, frames, dtype=torch.bool)).last_hidden_state
            actual = encoder(mel)

        assert actual.shape[1] == -(-frames // encoder.token_stride)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_gradients_are_those_of_transformers(
    options: dict[str, Any], scramble: Callable[[nn.Module], None], log_mel: Mel
) -> None:
    reference, encoder = make_pair(options, scramble)
    mel = log_mel(120, options["input_feat_size"])[None]

    expected = reference(mel, torch.zeros(1, 120, dtype=torch.bool)).last_hidden_state
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (encoder(mel) * weight).sum().backward()

    for (name, theirs), ours in zip(reference.named_parameters(), encoder.parameters(), strict=True):
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm().clamp(min=1e-6)
        assert error < 0.05, name  # a rectifier that flips within rounding moves single gradients


def test_padding_on_the_right_needs_no_mask(
    options: dict[str, Any], scramble: Callable[[nn.Module], None], rng: random.Random, log_mel: Mel
) -> None:
    reference, encoder = make_pair(options, scramble)
    mel = torch.stack([log_mel(300, options["input_feat_size"]) for _ in range(2)])
    mask = torch.zeros(2, 300, dtype=torch.bool)
    mask[1, rng.randint(100, 250) :] = True

    with torch.no_grad():
        expected = reference(mel, mask)
        actual = encoder(mel)

    valid = ~expected.audio_mel_mask
    torch.testing.assert_close(actual[valid], expected.last_hidden_state[valid], atol=1e-4, rtol=0)


def test_a_clip_is_encoded_alike_alone_and_padded(small_encoder: AudioEncoder, log_mel: Mel) -> None:
    """But for the two frames whose look-ahead falls on the padding."""
    mel = log_mel(400, 16)

    with torch.no_grad():
        alone = small_encoder.frames(mel[None, :200])[0]
        padded = small_encoder.frames(mel[None])[0]

    assert alone.shape == (50, 32)
    torch.testing.assert_close(padded[:48], alone[:48], atol=1e-5, rtol=0)
    assert not torch.allclose(padded[49], alone[49], atol=1e-3)


def test_encoding_k_depends_on_mel_frames_up_to_16k_plus_6(small_encoder: AudioEncoder, log_mel: Mel) -> None:
    mel = log_mel(400, 16)
    for k in (0, 3, 20):
        first_unseen = 16 * k + 7
        later, last = mel.clone(), mel.clone()
        later[first_unseen:] += 1
        last[first_unseen - 1] += 1

        with torch.no_grad():
            before, after_later, after_last = (small_encoder(m[None])[0] for m in (mel, later, last))

        torch.testing.assert_close(after_later[: k + 1], before[: k + 1], atol=1e-6, rtol=0)
        assert not torch.allclose(after_last[k], before[k], atol=1e-4)


def test_frames_come_before_the_reduction(small_encoder: AudioEncoder, log_mel: Mel) -> None:
    mel = torch.stack([log_mel(203, 16) for _ in range(3)])

    with torch.no_grad():
        frames, encodings = small_encoder.frames(mel), small_encoder(mel)

    assert (small_encoder.frame_stride, small_encoder.token_stride) == (4, 16)
    assert frames.shape == (3, 51, 32)
    assert torch.equal(small_encoder.reduce(frames), encodings)
    assert torch.equal(
        torch.cat([small_encoder.reduce(frames[:, :7]), small_encoder.reduce(frames[:, 7:], 7)], 1), encodings
    )


def test_no_audio_makes_no_encodings(small_encoder: AudioEncoder) -> None:
    assert small_encoder(torch.zeros(2, 0, 16)).shape == (2, 0, 32)


def test_autocast_trains_every_parameter(small_encoder: AudioEncoder, log_mel: Mel) -> None:
    mel = log_mel(160, 16)[None]

    with torch.autocast("cpu", torch.bfloat16):
        half = small_encoder.frames(mel)
    half.float().square().mean().backward()
    with torch.no_grad():
        full = small_encoder.frames(mel)

    assert half.dtype == torch.bfloat16
    assert (half - full).norm() / full.norm() < 0.05
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small_encoder.parameters())
    small_encoder.zero_grad()


def test_the_whole_sequence_form_is_one_graph(small_encoder: AudioEncoder, log_mel: Mel) -> None:
    mel = log_mel(160, 16)[None]
    compiled = torch.compile(small_encoder.frames, backend="aot_eager", fullgraph=True, dynamic=False)

    torch.testing.assert_close(compiled(mel), small_encoder.frames(mel), atol=1e-5, rtol=0)


def test_the_published_size() -> None:
    with torch.device("meta"):
        encoder = AudioEncoder(AudioConfig())

    assert sum(p.numel() for p in encoder.parameters()) == 681_348_640
