"""The loop: losses that fall, speech that comes in while it runs, and nothing left behind when it ends."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.training import augment
from pipeline.training.batches import Batch, Batcher, Bucket
from pipeline.training.muon import Muon
from pipeline.training.recipe import TINY
from pipeline.training.synthesis import Chunk, chunk_path
from pipeline.training.train import (
    Budget,
    DeviceBatch,
    Drawing,
    Learner,
    SpeechPool,
    heard,
    optimisers,
    summary,
    train,
)

CPU = torch.device("cpu")
TEXT, SPEECH = TINY.buckets[0], TINY.buckets[1]


@pytest.fixture
def learner(built) -> Learner:
    return copy.deepcopy(built.learner)


@pytest.fixture
def batcher(built, pairs) -> Batcher:
    """Knows no chunk yet."""
    return Batcher(pairs, built.prompt, built.learner.config.audio_token_id, TINY.buckets, seed=3)


@pytest.fixture
def folder(tmp_path: Path, chunks: list[Chunk]) -> Path:
    for number, chunk in enumerate(chunks):
        chunk.save(chunk_path(tmp_path, number))
    return tmp_path


def some_batch(batcher: Batcher, chunk: Chunk, index: int) -> tuple[torch.Tensor, Batch]:
    """A batch of bucket ``index`` and the mel of its speech."""
    batcher.add(chunk, 0)
    batch = batcher.batch(index)
    pool = torch.from_numpy(np.append(chunk.pcm, np.int16(0)))
    generator = torch.Generator().manual_seed(1)
    return heard(pool, batch, TINY.buckets[index], augment.warped_filterbanks(CPU), generator), batch


def test_an_untrained_model_knows_nothing(learner, batcher, chunks):
    """Its loss is that of guessing among all tokens."""
    mel, batch = some_batch(batcher, chunks[0], 1)
    with torch.no_grad():
        answer, spelling = learner(mel, DeviceBatch.of(batch, CPU), None)

    assert answer.item() == pytest.approx(math.log(learner.config.text.vocab_size), rel=0.25)
    assert 0 < spelling.item() < 50


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


def test_the_half_model_learns_in_the_leading_units(learner, batcher, chunks):
    """The others get no gradient from its steps."""
    mel, batch = some_batch(batcher, chunks[0], 0)
    half = TINY.ffn // 2
    answer, _ = learner(mel, DeviceBatch.of(batch, CPU), [half] * len(TINY.layer_types))
    answer.backward()
    gradients = [layer.mlp.gate_proj.weight.grad for layer in learner.language_model.layers]

    assert all(gradient[:half].any() for gradient in gradients)
    assert not any(gradient[half:].any() for gradient in gradients)


def test_text_teaches_the_decoder_alone(learner, batcher, chunks):
    mel, batch = some_batch(batcher, chunks[0], 0)
    answer, spelling = learner(mel, DeviceBatch.of(batch, CPU), None)
    answer.backward()

    assert mel.shape == (TEXT.size, 0, 128)
    assert spelling.item() == 0
    assert all(parameter.grad is None for parameter in learner.audio_tower.parameters())


def test_hearing_teaches_the_encoder_alone(learner, batcher, chunks):
    mel, batch = some_batch(batcher, chunks[0], 1)
    answer, spelling = learner(mel, DeviceBatch.of(batch, CPU), None, answering=False)
    spelling.backward()

    assert answer.item() == 0
    assert all(parameter.grad is None for parameter in learner.language_model.parameters())
    assert all(p.grad is not None for p in learner.audio_tower.conformer.parameters())


def test_noise_and_padding_cost_nothing(learner, batcher, chunks):
    """Positions behind an answer do not change the loss: everything is causal."""
    mel, batch = some_batch(batcher, chunks[0], 0)
    scrambled = batch.token_ids.copy()
    for row, labels in zip(scrambled, batch.labels, strict=True):
        row[np.flatnonzero(labels != -100).max() + 2 :] = 17
    with torch.no_grad():
        loss, _ = learner(mel, DeviceBatch.of(batch, CPU), None)
        other, _ = learner(mel, DeviceBatch.of(replace(batch, token_ids=scrambled), CPU), None)

    torch.testing.assert_close(loss, other)


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


class Listener:
    """Stands in for the processes that draw: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Chunk, int]] = []

    def add(self, chunk: Chunk, offset: int) -> None:
        self.told.append((chunk, offset))


def pool_of(
    folder: Path, capacity: int, making: Callable[[], bool] = lambda: False
) -> tuple[SpeechPool, Listener]:
    listener: Any = Listener()
    return SpeechPool(folder, listener, capacity, CPU, making), listener


def test_the_pool_holds_the_chunks_in_their_order(folder, chunks):
    pool, listener = pool_of(folder, 10_000_000)
    pool.read(len(chunks))

    assert pool.chunks == len(chunks)
    offsets = [offset for _, offset in listener.told]
    assert offsets == [0, *np.cumsum([len(chunk.pcm) for chunk in chunks])[:-1]]
    for chunk, offset in zip(chunks, offsets, strict=True):
        np.testing.assert_array_equal(pool.buffer[offset : offset + len(chunk.pcm)].numpy(), chunk.pcm)
    assert not pool.buffer[pool.filled :].any()


def test_the_pool_takes_in_what_is_new(folder, chunks):
    late = chunk_path(folder, 2)
    late.rename(folder / "later")
    pool, _ = pool_of(folder, 10_000_000)
    pool.read()
    assert pool.chunks == 2
    (folder / "later").rename(late)
    pool.read()
    assert pool.chunks == 4


def test_the_pool_waits_for_as_many_as_are_needed(tmp_path, chunks):
    """The chunk comes while it waits."""

    def making() -> bool:
        chunks[0].save(chunk_path(tmp_path, 0))
        return True

    pool, _ = pool_of(tmp_path, 10_000_000, making)
    pool.read(1)

    assert pool.chunks == 1


def test_a_full_pool_takes_no_more(folder, chunks):
    room = len(chunks[0].pcm) + len(chunks[1].pcm) + 1
    pool, _ = pool_of(folder, room)
    pool.read(4)

    assert pool.chunks == 2
    assert pool.filled == room - 1


def test_waiting_for_speech_that_nobody_makes_is_an_error(folder):
    pool, _ = pool_of(folder, 10_000_000)
    with pytest.raises(RuntimeError, match=r"synthesis ended without .*chunk-000004"):
        pool.read(5)


def test_a_pool_too_small_for_any_speech_is_an_error(folder):
    pool, _ = pool_of(folder, 100)
    with pytest.raises(ValueError, match="100 samples are too few"):
        pool.read(1)


def test_batches_drawn_ahead_are_those_of_the_batcher(batcher, built, pairs, chunks):
    twin = Batcher(pairs, built.prompt, built.learner.config.audio_token_id, TINY.buckets, seed=3)
    twin.add(chunks[0], 7)
    drawing = Drawing([batcher])
    try:
        drawing.add(chunks[0], 7)
        for _ in range(3):
            (index, batch), (expected_index, expected) = drawing.next(), twin.draw()
            assert index == expected_index
            for name, values in vars(expected).items():
                np.testing.assert_array_equal(getattr(batch, name), values)
    finally:
        drawing.close()
    assert not multiprocessing.active_children()


def test_a_drawing_process_that_died_is_an_error(batcher):
    drawing = Drawing([batcher])
    for process in multiprocessing.active_children():
        process.terminate()
    with pytest.raises(RuntimeError, match="a process that draws batches has died"):
        drawing.next()
    drawing.close()


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
    with pytest.raises(RuntimeError, match="synthesis ended without"):
        small(learner, batcher, tmp_path)

    assert not multiprocessing.active_children()


def test_text_is_not_heard():
    batch: Any = None
    generator = torch.Generator().manual_seed(0)
    mel = heard(torch.zeros(9), batch, Bucket(0.0, 5, 10, 1.0), torch.zeros(0), generator)

    assert mel.shape == (5, 0, 128)


def test_mel_covers_the_soft_tokens_of_its_batch(batcher, chunks, learner):
    """The last one too, which the zeros behind the longest audio complete."""
    mel, batch = some_batch(batcher, chunks[0], 1)
    with torch.no_grad():
        tokens = learner.audio_tower(mel)

    assert len(mel) == SPEECH.size
    assert batch.tokens.max() <= tokens.shape[1]
