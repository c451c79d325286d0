"""The loop: losses that fall, speech that comes in while it runs, and nothing left behind when it ends."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.training import augment
from pipeline.training.batches import Batcher, Bucket
from pipeline.training.learner import DeviceBatch, Learner
from pipeline.training.muon import Muon
from pipeline.training.recipe import TINY
from pipeline.training.train import Budget, heard, optimisers, summary, train
from tests.pipeline.training.conftest import CPU, band, batcher_of, some_batch

SPEECH = TINY.buckets[1]


@pytest.mark.parametrize(("index", "half"), [(0, True), (1, False)], ids=["text, half width", "speech"])
def test_what_is_repeated_is_learned(learner, batcher, chunks, index: int, half: bool):
    mel, batch = some_batch(batcher, chunks[0], index)
    there = DeviceBatch.of(batch, CPU)
    widths = [TINY.ffn // 2] * len(TINY.layer_types) if half else None
    steppers = optimisers(learner, TINY, fused=False)
    losses = []
    for _ in range(25):
        answer, spelling = learner(mel, there, widths)
        (answer + spelling).backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        losses.append(answer.item())

    assert losses[-1] < 0.6 * losses[0]


def test_every_parameter_has_one_optimiser(learner):
    muon, adam = optimisers(learner, TINY, fused=False)
    matrices, others = (
        {id(p) for group in stepper.param_groups for p in group["params"]} for stepper in (muon, adam)
    )

    assert isinstance(muon, Muon)
    assert not matrices & others
    assert matrices | others == {id(parameter) for parameter in learner.parameters()}
    # Tables and heads are matrices too, but their rows are vectors of their own.
    assert id(learner.language_model.embed_tokens.weight) in others
    assert id(learner.characters.weight) in others
    assert id(learner.language_model.layers[0].mlp.up_proj.weight) in matrices
    assert id(learner.audio_tower.conformer[0].ffw_layer_start.ffw_layer_1.weight) in matrices


def test_the_summary_counts_every_parameter(learner):
    assert sum(json.loads(summary(learner)).values()) == sum(p.numel() for p in learner.parameters())


def small(learner: Learner, batcher: Batcher, folder: Path, **changes: Any) -> int:
    arguments = {
        "folder": folder,
        "budget": Budget(3, 600),
        "device": CPU,
        "seed": 1,
        "pool_samples": 10_000_000,
        "making": lambda: False,
        "log": lambda line: None,
    }
    return train(learner, TINY, [batcher], **{**arguments, **changes})


def test_training_ends_with_its_budget_and_a_checkpoint(learner, batcher, folder):
    before = copy.deepcopy(learner.state_dict())
    lines: list[str] = []
    checkpoints: list[int] = []
    steps = small(learner, batcher, folder, log=lines.append, checkpoint=checkpoints.append)

    assert steps == 3
    assert checkpoints == [3]
    assert lines[0].startswith("4 chunks, ")
    assert lines[1].startswith("step 1 ")
    assert any((value != before[name]).any() for name, value in learner.state_dict().items())
    assert not multiprocessing.active_children()


def test_time_is_a_budget_too(learner, batcher, folder):
    assert small(learner, batcher, folder, budget=Budget(1_000_000, 1e-9)) == 0


def test_no_process_is_left_when_training_fails(learner, batcher, folder):
    """Losses that are no numbers end it."""
    with torch.no_grad():
        learner.language_model.norm.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="at step 1"):
        small(learner, batcher, folder)

    assert not multiprocessing.active_children()


def test_no_process_is_left_when_there_is_no_speech(learner, batcher, tmp_path):
    with pytest.raises(RuntimeError, match="synthesis ended with 0 chunks"):
        small(learner, batcher, tmp_path)

    assert not multiprocessing.active_children()


def test_text_is_not_heard():
    batch: Any = None
    generator = torch.Generator().manual_seed(0)
    mel = heard(torch.zeros(9), batch, Bucket(0.0, 5, 10, 1.0), torch.zeros(0), generator)

    assert mel.shape == (5, 0, 128)


def test_half_of_what_is_faster_or_slower_is_so_in_its_pace_alone(built, pairs, chunks):
    """A tone stays where it is in these, and moves in nearly all others."""
    tone = 8_000 * np.sin(2 * np.pi * 1_500 / 16_000 * np.arange(len(chunks[0].pcm)))
    chunk = dataclasses.replace(chunks[0], pcm=tone.astype(np.int16))
    stayed = changed = 0
    for seed in range(24):
        mel, batch = some_batch(batcher_of(built, pairs, seed=seed), chunk, 1)
        speed = np.ones(len(mel))
        speed[batch.piece_example] = batch.piece_speed
        for own, pace, samples in zip(mel, speed, batch.samples, strict=True):
            # Closer to 1 the one cannot be told from the other; further away no warp reaches.
            if 0.07 < abs(math.log(pace)) < math.log(augment.WIDEST):
                peak = int(own[: samples // augment.HOP].mean(0).argmax())
                stayed += abs(peak - band(1_500)) <= 1
                changed += 1

    assert changed > 25
    assert 0.25 < stayed / changed < 0.75


def test_mel_covers_the_soft_tokens_of_its_batch(batcher, chunks, learner):
    """The last one too, which the zeros behind the longest audio complete."""
    mel, batch = some_batch(batcher, chunks[0], 1)
    with torch.no_grad():
        tokens = learner.audio_tower(mel)

    assert len(mel) == SPEECH.size
    assert batch.tokens.max() <= tokens.shape[1]
