"""Soft tokens of streams that are encoded together."""

from __future__ import annotations

import random
import secrets

import numpy as np
import torch

from pipeline.batching import Batch


def test_tokens_come_as_soon_as_they_are_certain_and_in_step(babbler):
    """Token k comes with the frame that ends at sample 2560 k + 1473, whatever the cut."""
    stream, given, said = babbler.audio_stream(), 0, 0
    for size in (1472, 1, 2559, 1, 2560 * 3, 100):
        said += len(stream.push(np.zeros(size, np.float32)))
        given += size
        assert said == max(0, (given - 1473) // 2560 + 1)


def test_streams_in_one_batch_get_the_tokens_that_they_get_alone(babbler, speech):
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    draws = random.Random(seed)
    waveforms = [speech[draws.randrange(20_000) :][: draws.randint(30_000, 50_000)] for _ in range(4)]
    streams = [babbler.audio_stream() for _ in waveforms]
    pieces = [np.array_split(waveform, draws.randint(3, 12)) for waveform in waveforms]
    said: list[list[torch.Tensor]] = [[] for _ in streams]
    batch = Batch(babbler.ears.encode)
    while any(pieces):
        for at, stream in enumerate(streams):
            if pieces[at] and draws.random() < 0.7:
                batch.add(at, stream.steps(pieces[at].pop(0)))
        while len(batch):
            for at, tokens in batch.step():
                said[at].append(tokens)

    for stream, waveform, tokens in zip(streams, waveforms, said, strict=True):
        together = torch.cat([*tokens, stream.flush()])
        torch.testing.assert_close(together, babbler.encode_audio(waveform), atol=1e-4, rtol=0)
