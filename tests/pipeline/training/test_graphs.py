"""Graphs: the losses and gradients of the learner itself, captured once for each shape and width."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.training.graphs import GraphedLearner
from pipeline.training.learner import DeviceBatch, Learner
from pipeline.training.recipe import TINY
from tests.pipeline.training.conftest import CPU, some_batch

HALF = [TINY.ffn // 2] * len(TINY.layer_types)
STEPS = (
    (0, None, True),
    (1, None, True),
    (1, HALF, True),
    (1, None, False),
    (0, None, True),
    (1, HALF, True),
)
"""Bucket, widths and whether the decoder runs over speech; the last two have come before."""

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Parts that were captured, where there is no GPU: there they run as they are."""
    parts: list[nn.Module] = []

    def capture(part: nn.Module, samples: tuple[Tensor, ...], **options: Any) -> nn.Module:
        part(*samples)
        parts.append(part)
        return part

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    # That of a device that is not there warns.
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: torch.no_grad())
    return parts


def step(learner: Learner, losses: tuple[Tensor, Tensor]) -> Any:
    """The losses, and their gradients."""
    learner.zero_grad(set_to_none=True)
    answer, spelling = losses
    (answer + 0.5 * spelling).backward()
    gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    return answer.detach().clone(), spelling.detach().clone(), gradients


def assert_same_steps(
    learner: Learner, batcher: Any, chunk: Any, device: torch.device, atol: float = 1e-4
) -> None:
    """Of a learner and one with graphs, through the same steps."""
    twin = copy.deepcopy(learner)
    graphed = GraphedLearner(twin)
    for index, widths, answering in STEPS:
        mel, batch = some_batch(batcher, chunk, index)
        bucket = TINY.buckets[index]
        there = DeviceBatch.of(batch, device, bucket.size * bucket.answer)
        arguments = (mel.to(device), there, widths)
        expected = step(learner, learner(*arguments, answering=answering))
        got = step(twin, graphed(*arguments, answering=answering))
        # A part that was captured leaves zeros where the learner itself leaves nothing.
        extra = {name: torch.zeros_like(got[2][name]) for name in got[2].keys() - expected[2].keys()}
        torch.testing.assert_close(got, (*expected[:2], expected[2] | extra), atol=atol, rtol=10 * atol)


def test_the_parts_make_the_same_losses_and_gradients(learner, batcher, chunks, captured):
    assert_same_steps(learner, batcher, chunks[0], CPU)

    # The encoder once, the rest for text, for speech, and for speech at half the width.
    assert len(captured) == 4


@no_gpu
def test_graphs_make_the_same_losses_and_gradients(learner, batcher, chunks):
    device = torch.device("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert_same_steps(learner.to(device), batcher, chunks[0], device, atol=1e-2)
