"""Quick steps of the encoder are those of its blocks: what comes out, and what is remembered."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config import AudioConfig
from pipeline.encoder.bank import stacked
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.quick import MOST_FRAMES, QuickBlocks, suits
from pipeline.encoder.streaming import StreamingEncoder


@torch.inference_mode()
def test_quick_steps_are_those_of_the_blocks(
    options: dict[str, Any], scramble: Callable[[nn.Module], None], rng: random.Random
) -> None:
    """Of streams that are alike, which change between both ways."""
    encoder = AudioEncoder(AudioConfig.from_dict(options)).eval()
    scramble(encoder)
    streaming = StreamingEncoder(encoder)
    quick = QuickBlocks(encoder, streaming.positions)
    streams = rng.randint(1, 3)
    own = [stacked([block.initial_state() for _ in range(streams)]) for block in encoder.blocks]
    twins = [stacked([block.initial_state() for _ in range(streams)]) for block in encoder.blocks]
    seen = 0
    for number in range(12):
        x = torch.randn(streams, rng.randint(1, 12), options["hidden_size"])
        want, mask = x, encoder.window_mask(x.shape[1], seen)
        for block, memory, positions in zip(encoder.blocks, twins, streaming.positions, strict=True):
            want = block(want, mask, memory, positions)
        if number % 4 == 3:
            got = x
            for block, memory, positions in zip(encoder.blocks, own, streaming.positions, strict=True):
                got = block(got, mask, memory, positions)
        else:
            got = quick(x, own, seen)
        seen += x.shape[1]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    for memory, twin in zip(own, twins, strict=True):
        torch.testing.assert_close(memory.attention.keys, twin.attention.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(memory.attention.values, twin.attention.values, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(memory.gated, twin.gated, rtol=1e-4, atol=1e-4)


def test_only_what_was_measured_goes_this_way(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = AudioEncoder(AudioConfig.from_dict(options))
    assert suits(encoder, MOST_FRAMES)
    assert not suits(encoder, MOST_FRAMES + 1)
    monkeypatch.setattr("pipeline.small.MOST_HIDDEN", options["hidden_size"] - 1)
    assert not suits(encoder, 1)
    monkeypatch.undo()
    assert not suits(encoder.to(torch.bfloat16), 1)
