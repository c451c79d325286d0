"""Usual steps in fixed shapes are those of streams alone; on a GPU they are graphs besides."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.config import AudioConfig
from pipeline.encoder import fixed
from pipeline.encoder.bank import SPARE, tensors
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.fixed import BEGINNING, GOING_ON, FixedEncoderSteps
from pipeline.encoder.streaming import StreamingEncoder

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]

Mel = Callable[[int, int], torch.Tensor]


def in_fixed_shapes(encoder: AudioEncoder) -> StreamingEncoder:
    """A streaming encoder that takes a GPU's way, wherever it is."""
    streaming = StreamingEncoder(encoder)
    streaming.quick = None
    streaming.fixed = streaming.fixed or streaming.in_fixed_shapes()
    return streaming


def batches_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches of usual steps from now on."""
    sizes: list[int] = []
    run = FixedEncoderSteps.run
    monkeypatch.setattr(
        FixedEncoderSteps,
        "run",
        lambda self, rows, seen, mels: sizes.append(len(mels)) or run(self, rows, seen, mels),
    )
    return sizes


@pytest.mark.parametrize("device", DEVICES)
def test_streams_that_come_pause_and_go_hear_what_they_hear_alone(  # noqa: PLR0917
    device: str,
    options: dict[str, Any],
    scramble: Callable[[nn.Module], None],
    rng: random.Random,
    log_mel: Mel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With first pieces, usual ones and others, branches at pauses, a bank that grows, and batches cut."""
    encoder = AudioEncoder(AudioConfig.from_dict(options)).eval()
    scramble(encoder)
    streaming = in_fixed_shapes(encoder.to(device))
    alone = StreamingEncoder(encoder)
    assert streaming.fixed is not None
    monkeypatch.setattr(fixed, "MOST_LONG", 2)
    ran = batches_of(monkeypatch)
    first, stride = encoder.first_frames, encoder.token_stride
    going: list[list[Any]] = []
    for number in range(25):
        for _ in range(rng.randint(0, 3) if number % 9 else 6):
            mel = log_mel(first + 60 * stride, options["input_feat_size"])
            going.append([streaming.initial_state(), mel, 0, []])
        rng.shuffle(going)
        del going[rng.choice([len(going), len(going) // 2, 9]) :]
        pieces, asked = [], []
        for one in going:
            state, mel, at, _ = one
            tokens = rng.choice([*BEGINNING, 1, 7, 10, 17] if not at else [*GOING_ON, 1, 1, 3])
            size = tokens * stride if at else first + (tokens - 1) * stride
            if rng.random() < 0.05:
                size = rng.randint(1, 3)
            if rng.random() < 0.3:
                branch = [state.clone(), mel, at, list(one[3])]
                pieces.append(mel[at : at + stride])
                asked.append(branch)
            pieces.append(mel[at : at + size])
            asked.append(one)
        if not asked:
            continue
        encoded = streaming.push_many([one[0] for one in asked], pieces)
        for one, piece, encodings in zip(asked, pieces, encoded, strict=True):
            assert isinstance(encodings, torch.Tensor)
            one[2] += len(piece)
            one[3].append(encodings)
        for _, mel, at, said in rng.sample(asked, min(3, len(asked))):
            expected = alone.push(alone.initial_state(), mel[:at])
            torch.testing.assert_close(torch.cat(said), expected, atol=1e-4, rtol=0)
        # No client speaks longer than its audio.
        going = [one for one in going if one[2] < first + 55 * stride]
    assert max(ran) > 2


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_prepared_need_not_be_recorded_in_the_midst(
    device: str, small_encoder: AudioEncoder, long_mel: torch.Tensor
) -> None:
    streaming = in_fixed_shapes(small_encoder.to(device))
    assert streaming.fixed is not None
    streaming.prepare(20)
    shapes = streaming.fixed.shapes
    assert shapes == len([*BEGINNING, *GOING_ON]) * len([1, 8, 16, 32])
    states = [streaming.initial_state() for _ in range(20)]
    first, stride = small_encoder.first_frames, small_encoder.token_stride
    for tokens, count, begins in (
        (10, 20, True),
        (1, 20, False),
        (1, 3, False),
        (5, 1, False),
        (2, 9, False),
    ):
        size = first + (tokens - 1) * stride if begins else tokens * stride
        streaming.push_many(states[:count], [long_mel[:size]] * count)
    assert streaming.fixed.shapes == shapes


def test_a_longer_piece_is_taken_in_usual_steps(
    small_encoder: AudioEncoder, long_mel: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is so long that one step of its own keeps a GPU busy, or ends between two encodings."""
    streaming = in_fixed_shapes(small_encoder)
    assert streaming.fixed is not None
    first, stride = small_encoder.first_frames, small_encoder.token_stride
    for tokens, steps in ((3, 1), (5, 1), (6, 2), (10, 3), (16, 5), (17, 0), (2, 0)):
        state, sizes = streaming.initial_state(), batches_of(monkeypatch)
        (encoded,) = streaming.push_many([state], [long_mel[: first + (tokens - 1) * stride]])
        assert isinstance(encoded, torch.Tensor)
        assert len(encoded) == tokens
        assert len(sizes) == steps
        monkeypatch.undo()
    assert streaming.fixed.parted(None, 0, first + 1) == [first + 1]


def test_streams_that_began_at_other_times_are_one_batch(
    small_encoder: AudioEncoder, long_mel: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As are the branches of those that pause; what fills up leaves only the spare row changed."""
    streaming = in_fixed_shapes(small_encoder)
    states = [streaming.initial_state() for _ in range(5)]
    first, stride = small_encoder.first_frames, small_encoder.token_stride
    for at in range(5):
        streaming.push_many(states[at : at + 1], [long_mel[: first + 3 * stride]])
        streaming.push_many(states[: at + 1], [long_mel[:stride]] * (at + 1))
    assert len({state.frames for state in states}) == 5
    batches = batches_of(monkeypatch)
    branches = [state.clone() for state in states[:2]]
    untouched = states[3].clone()
    before = list(tensors(untouched.read()))
    streaming.push_many([*states, *branches], [long_mel[:stride]] * 7)

    assert batches == [7]
    rows = [state.row.index for state in [*states, *branches, untouched] if state.row]
    assert len(set(rows)) == 8
    assert SPARE not in rows
    assert all(map(torch.equal, tensors(untouched.read()), before))
