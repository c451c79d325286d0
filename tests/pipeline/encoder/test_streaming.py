from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.config import AudioConfig
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.streaming import EncoderState, StreamingEncoder

Mel = Callable[[int, int], torch.Tensor]

LONGEST = 12_000
"""Mel frames of 120 s, all of ``long_mel``."""

PIECE = st.one_of(st.integers(0, 3), st.integers(1, 60), st.integers(1, 4000))
"""Mel frames pushed at once, up to 40 s."""


@pytest.fixture(scope="module")
def streaming(small_encoder: AudioEncoder) -> StreamingEncoder:
    return StreamingEncoder(small_encoder)


def push_all(
    streaming: StreamingEncoder, state: EncoderState, mel: torch.Tensor, sizes: Iterable[int]
) -> list[torch.Tensor]:
    """Push ``mel`` in pieces of these sizes and then whatever is left."""
    cuts = [0]
    for size in sizes:
        cuts.append(min(cuts[-1] + size, len(mel)))
    return [streaming.push(state, mel[a:b]) for a, b in pairwise([*cuts, len(mel)])]


@torch.no_grad()
def assert_equals_whole(streaming: StreamingEncoder, mel: torch.Tensor, sizes: Iterable[int]) -> None:
    state = streaming.initial_state()
    pieces = [*push_all(streaming, state, mel, sizes), streaming.flush(state)]
    torch.testing.assert_close(torch.cat(pieces), streaming.encoder(mel[None])[0], atol=1e-4, rtol=0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.integers(0, LONGEST), sizes=st.lists(PIECE, max_size=40))
def test_pieces_of_any_size_give_the_whole(
    streaming: StreamingEncoder, long_mel: torch.Tensor, frames: int, sizes: list[int]
) -> None:
    assert_equals_whole(streaming, long_mel[:frames], sizes)


@pytest.mark.parametrize(("frames", "size"), [(1000, 1), (4000, 7), (12_000, 48), (12_000, 12_000)])
def test_pieces_of_one_size_give_the_whole(
    streaming: StreamingEncoder, long_mel: torch.Tensor, frames: int, size: int
) -> None:
    assert_equals_whole(streaming, long_mel[:frames], [size] * (frames // size))


def test_any_configuration_streams(
    options: dict[str, Any], scramble: Callable[[nn.Module], None], rng: random.Random, log_mel: Mel
) -> None:
    """Other kernels, strides, windows and reductions, not only the published ones."""
    encoder = AudioEncoder(AudioConfig.from_dict(options)).eval()
    scramble(encoder)
    mel = log_mel(rng.randint(1, 400), options["input_feat_size"])
    sizes = [rng.randint(0, 30) for _ in range(30)]
    print(len(mel), sizes)

    assert_equals_whole(StreamingEncoder(encoder), mel, sizes)


def test_an_encoding_is_certain_as_soon_as_its_frames_are_there(
    streaming: StreamingEncoder, long_mel: torch.Tensor
) -> None:
    """Encoding k appears with mel frame 16 k + 6, neither sooner nor later."""
    state = streaming.initial_state()

    counts = [len(streaming.push(state, frame[None])) for frame in long_mel[:200]]

    assert counts == [int(t % 16 == 6) for t in range(200)]


def test_new_input_never_changes_old_output(streaming: StreamingEncoder, long_mel: torch.Tensor) -> None:
    """Two streams that part after 300 frames said the same until then."""
    with torch.no_grad():
        whole = [
            streaming.encoder(torch.cat([long_mel[:300], future])[None])[0]
            for future in (long_mel[300:600], long_mel[5000:5900])
        ]

    said = streaming.push(streaming.initial_state(), long_mel[:300])

    assert len(said) == 19
    for encodings in whole:
        torch.testing.assert_close(said, encodings[:19], atol=1e-5, rtol=0)


def test_the_state_does_not_grow(streaming: StreamingEncoder, long_mel: torch.Tensor) -> None:
    state = streaming.initial_state()
    sizes = []
    for piece in long_mel.split([64] + [16] * 46 + [800] * 14):
        streaming.push(state, piece)
        sizes.append(state.nbytes)

    assert len(set(sizes)) == 1


def test_the_state_of_the_published_encoder_is_about_one_megabyte() -> None:
    with torch.device("meta"):
        encoder = AudioEncoder(AudioConfig()).bfloat16()

    nbytes = StreamingEncoder(encoder).initial_state().nbytes

    # Per block the keys and values of 12 frames and the convolution input of 4, in bfloat16.
    blocks = 12 * (2 * 12 + 4) * 1536 * 2
    assert blocks <= nbytes <= blocks + 64


def test_a_clone_goes_its_own_way(streaming: StreamingEncoder, long_mel: torch.Tensor) -> None:
    state = streaming.initial_state()
    streaming.push(state, long_mel[:333])
    clone = state.clone()

    elsewhere = streaming.push(clone, long_mel[6000:6400])
    here = streaming.push(state, long_mel[333:733])
    again = streaming.initial_state()
    expected = push_all(streaming, again, long_mel[:733], [333])[1]

    torch.testing.assert_close(here, expected, atol=0, rtol=0)
    assert not torch.allclose(here, elsewhere[: len(here)], atol=1e-3)


@pytest.mark.parametrize("end", ["reset", "flush"])
def test_a_stream_that_has_ended_leaves_no_trace(
    streaming: StreamingEncoder, long_mel: torch.Tensor, end: str
) -> None:
    state = streaming.initial_state()
    streaming.push(state, long_mel[:777])
    getattr(streaming, end)(state)

    after = streaming.push(state, long_mel[1000:1500])

    fresh = streaming.push(streaming.initial_state(), long_mel[1000:1500])
    torch.testing.assert_close(after, fresh, atol=0, rtol=0)


def test_streams_of_one_encoder_do_not_mix(streaming: StreamingEncoder, long_mel: torch.Tensor) -> None:
    clips = [long_mel[:500], long_mel[3000:3500]]
    states = [streaming.initial_state() for _ in clips]
    said: list[list[torch.Tensor]] = [[], []]
    for start in range(0, 500, 20):
        for clip, state, heard in zip(clips, states, said, strict=True):
            heard.append(streaming.push(state, clip[start : start + 20]))

    for clip, heard in zip(clips, said, strict=True):
        alone = push_all(streaming, streaming.initial_state(), clip, [20] * 25)
        torch.testing.assert_close(torch.cat(heard), torch.cat(alone), atol=0, rtol=0)


def test_push_keeps_no_gradients_and_leaves_its_input_alone(
    streaming: StreamingEncoder, long_mel: torch.Tensor
) -> None:
    mel = long_mel[:100].clone()

    encodings = streaming.push(streaming.initial_state(), mel)

    assert not encodings.requires_grad
    assert torch.equal(mel, long_mel[:100])


@pytest.mark.parametrize("shape", [(16,), (1, 5, 16), (5, 15)])
def test_another_shape_is_named(streaming: StreamingEncoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"mel must have the shape \[frames, 16\], got \["):
        streaming.push(streaming.initial_state(), torch.zeros(shape))


def test_streams_in_one_batch_equal_streams_alone(
    streaming: StreamingEncoder, long_mel: torch.Tensor
) -> None:
    """Joining and leaving at any step, in step with others or not."""
    draws = random.Random(secrets.randbits(32))
    mels = [long_mel[at : at + 300] for at in (0, 100, 200, 350, 500)]
    states = [streaming.initial_state() for _ in mels]
    fed, said = [0] * len(mels), [[] for _ in mels]
    while min(fed) < 300:
        going = [at for at, count in enumerate(fed) if count < 300]
        chosen = draws.sample(going, draws.randint(1, len(going)))
        sizes = [draws.choice([7 if not fed[at] else 16, 16, 3]) for at in chosen]
        pieces = [mels[at][fed[at] : fed[at] + size] for at, size in zip(chosen, sizes, strict=True)]
        encoded = streaming.push_many([states[at] for at in chosen], pieces)
        for at, piece, encodings in zip(chosen, pieces, encoded, strict=True):
            fed[at] += len(piece)
            said[at].append(encodings)
    for mel, pieces in zip(mels, said, strict=True):
        alone = streaming.push(streaming.initial_state(), mel)
        torch.testing.assert_close(torch.cat(pieces), alone, atol=1e-5, rtol=0)


def test_streams_in_step_are_computed_in_one_pass(
    streaming: StreamingEncoder, long_mel: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    step = streaming._step
    monkeypatch.setattr(
        streaming,
        "_step",
        lambda memory, mel, *rest, **last: batches.append(len(mel)) or step(memory, mel, *rest, **last),
    )
    states = [streaming.initial_state() for _ in range(4)]
    for at, state in enumerate(states):
        streaming.push(state, long_mel[: streaming.encoder.first_frames + 16 * (at + 20)])
    batches.clear()
    streaming.push_many(states, [long_mel[:16]] * 4)

    assert batches == [4]
