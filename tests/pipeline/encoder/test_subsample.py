from __future__ import annotations

import pytest
import torch

from pipeline.config import AudioConfig
from pipeline.encoder.subsample import SubSampleConvProjection
from pipeline.errors import CheckpointError

CONFIG = AudioConfig(input_feat_size=16, hidden_size=32, sscp_conv_channel_size=(8, 4))


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 4, 5, 15, 16, 17, 100])
def test_every_fourth_mel_frame_makes_one_frame(frames: int) -> None:
    stem = SubSampleConvProjection(CONFIG)

    assert stem(torch.randn(2, frames, 16)).shape == (2, -(-frames // 4), 32)


def test_frame_s_sees_mel_frames_4s_to_4s_plus_6() -> None:
    """Beyond these only the running statistics of earlier frames count."""
    stem = SubSampleConvProjection(CONFIG)
    mel = torch.randn(1, 64, 16)
    changed = mel.clone()
    changed[:, 39:] += 1

    before, after = stem(mel)[0], stem(changed)[0]

    moved = (before - after).abs().amax(dim=1) > 0
    # 4 * 8 + 6 = 38 < 39 <= 4 * 9 + 6
    assert moved.tolist() == [s > 8 for s in range(16)]


def test_the_tail_is_at_most_two_frames_per_convolution() -> None:
    stem = SubSampleConvProjection(CONFIG)
    state = stem.initial_state()
    for _ in range(50):
        stem.step(torch.randn(1, 1, 16), state)
        assert [block.tail.shape[2] <= 2 for block in state] == [True, True]
        assert all(block.tail.untyped_storage().nbytes() == block.tail.nbytes for block in state)


def test_a_stride_beyond_the_kernel_is_refused() -> None:
    config = AudioConfig(sscp_conv_kernel_size=((3, 3), (2, 3)), sscp_conv_stride_size=((2, 2), (3, 2)))

    with pytest.raises(
        CheckpointError, match=r"sscp_conv_kernel_size\[1\]\[0\] must be at least its stride 3"
    ):
        SubSampleConvProjection(config)
