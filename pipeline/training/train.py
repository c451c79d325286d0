"""The training loop: speech that is still being synthesised in, a checkpoint in Hugging Face layout out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import SAMPLE_RATE
from pipeline.training import augment
from pipeline.training.batches import Batch, Batcher, Bucket
from pipeline.training.feed import Drawing, SpeechPool
from pipeline.training.graphs import GraphedLearner
from pipeline.training.learner import DeviceBatch, Learner
from pipeline.training.muon import Muon
from pipeline.training.recipe import Recipe
from pipeline.training.replicas import Replicas
from pipeline.transfers import array_to_device

LOG_EVERY = 50
CHECKPOINT_EVERY = 500
PACED_SHARE = 0.5
"""Share of the examples whose formants and pitch stay where they are when their pace changes."""
COMPILED_SHARE = 0.2
"""Share of all steps from which a bucket is compiled for, where compiling was asked for."""


@dataclass(frozen=True)
class Budget:
    """How long to train: until whichever of the two comes first; the learning rate falls to zero there."""

    steps: int
    seconds: float


@torch.no_grad()
def heard(pool: Tensor, batch: Batch, bucket: Bucket, banks: Tensor, generator: torch.Generator) -> Tensor:
    """Log-mel frames of a batch's speech as a microphone in a room delivered it, [B, frames, 128].

    Args:
        pool: int16, all utterances in a row.
        batch: which of them go where.
        bucket: the batch's shape; one of text has no frames.
        banks: from :func:`pipeline.training.augment.warped_filterbanks`.
        generator: of every random choice, on the pool's device.
    """
    if not bucket.samples:
        return torch.zeros(bucket.size, 0, augment.BINS, device=pool.device)
    speech = augment.gather_speech(pool, batch, bucket.samples, pool.device)
    wave = augment.augment(speech, generator)
    warp = torch.randint(augment.WARPS, (len(wave),), generator=generator, device=pool.device)
    speed = np.ones(len(wave), np.float32)
    speed[batch.piece_example] = batch.piece_speed
    paced = torch.rand(len(wave), generator=generator, device=pool.device) < PACED_SHARE
    warp = torch.where(paced, augment.undoing(array_to_device(speed, pool.device)), warp)
    mel = augment.log_mel(F.pad(wave, (0, 513)), banks, warp)
    mel = augment.bend_time(mel, generator)
    return augment.mask_bands(augment.blur_bands(mel, generator), generator)


def optimisers(learner: Learner, recipe: Recipe, fused: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for tables, norms, convolutions and the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in learner.named_parameters():
        inside = ".layers." in name or ".conformer." in name
        (matrices if inside and parameter.ndim == 2 and min(parameter.shape) >= 8 else others).append(
            parameter
        )
    return [
        Muon(matrices, recipe.matrix_rate),
        torch.optim.AdamW(others, recipe.vector_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused),
    ]


def train(
    learner: Learner,
    recipe: Recipe,
    batchers: Sequence[Batcher],
    *,
    folder: Path,
    budget: Budget,
    device: torch.device,
    seed: int,
    pool_samples: int,
    making: Callable[[], bool],
    replicas: Replicas | None = None,
    log: Callable[[str], None] = print,
    checkpoint: Callable[[int], None] | None = None,
) -> int:
    """Train ``learner`` in place.

    Args:
        learner: the model.
        recipe: its settings.
        batchers: draw the examples, each in a process of its own.
        folder: where chunks of speech appear (:func:`pipeline.training.synthesis.synthesise`).
        budget: when to stop.
        device: where to train.
        seed: of augmentation and widths.
        pool_samples: size of the pool of speech in samples.
        making: tells whether chunks are still being made.
        replicas: the processes that train the same model on other devices; None if there are none.
        log: receives one line every :data:`LOG_EVERY` steps.
        checkpoint: called every :data:`CHECKPOINT_EVERY` steps and at the end with the step number.

    Returns:
        The number of steps.

    Raises:
        RuntimeError: synthesis ended before there was speech to begin with, or a process that draws
            batches has died.
        ValueError: the pool is too small for any speech.
        FloatingPointError: the losses are no longer finite.
    """
    replicas = replicas or Replicas()
    # Replicas agree on the shape and the width of a step, and on nothing else that is drawn.
    torch.manual_seed(seed + replicas.rank)
    learner.to(device).train()
    replicas.align(learner.parameters())
    generator = torch.Generator(device).manual_seed(seed + replicas.rank)
    chooser = np.random.default_rng(seed)
    half = [width // 2 for width in learner.config.text.intermediate_size]
    banks = augment.warped_filterbanks(device)
    steppers = optimisers(learner, recipe, fused=device.type == "cuda")
    step_learner = GraphedLearner(learner) if device.type == "cuda" else learner
    rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    # Since the last line of the log, by what they are of.
    losses: dict[str, list[Tensor]] = {"answer": [], "ctc": [], "text": []}
    step, seconds = 0, 0.0
    with (
        closing(Drawing(batchers, seed)) as drawing,
        closing(SpeechPool(folder, drawing, pool_samples, device, making, most=recipe.chunks)) as pool,
    ):
        pool.read(recipe.first_chunks)
        log(f"{pool.chunks} chunks, {pool.filled / SAMPLE_RATE / 3600:.1f} h of speech to begin with")
        begun = time.monotonic()
        while True:
            progress = max(step / budget.steps, (time.monotonic() - begun) / budget.seconds)
            progress = replicas.agreed(progress)
            if progress >= 1:
                break
            factor = min((step + 1) / recipe.warmup, 1.0) * min(1.0, 1.35 * (1 - progress)) ** 1.2
            for stepper, rate in zip(steppers, rates, strict=True):
                stepper.param_groups[0]["lr"] = rate * max(factor, 0.002)
            index, batch = drawing.next()
            bucket = recipe.buckets[index]
            mel = heard(pool.buffer, batch, bucket, banks, generator)
            widths = half if chooser.random() < recipe.half_share else None
            places = len(batch.samples) * bucket.answer if device.type == "cuda" else None
            there = DeviceBatch.of(batch, device, places)
            # A shape that is rarely drawn is not worth compiling for.
            stance = "default" if bucket.share >= COMPILED_SHARE else "force_eager"
            with torch.autocast(device.type, torch.bfloat16), torch.compiler.set_stance(stance):
                answering = progress >= recipe.hearing_share or not bucket.samples
                answer, spelling = _propagate(
                    partial(step_learner, mel, there, widths, answering=answering), 0.5 - 0.35 * progress
                )
            replicas.average_gradients(learner.parameters())
            nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad(set_to_none=True)
            if answering:
                losses["answer" if bucket.samples else "text"].append(answer)
            if bucket.samples:
                losses["ctc"].append(spelling)
            seconds += float(batch.samples.sum()) / SAMPLE_RATE
            step += 1
            if step % LOG_EVERY == 0 or step == 1:
                means = {name: torch.stack(some).mean().item() for name, some in losses.items() if some}
                log(
                    f"step {step} {' '.join(f'{name} {mean:.3f}' for name, mean in means.items())} "
                    f"lr {factor:.3f} speech {seconds / 3600:.1f} h of "
                    f"{pool.filled / SAMPLE_RATE / 3600:.1f} h, {time.monotonic() - begun:.0f} s"
                )
                if not all(map(math.isfinite, means.values())):
                    raise FloatingPointError(f"the losses are {means} at step {step}")
                losses = {name: [] for name in losses}
                pool.read()
            if checkpoint and step % CHECKPOINT_EVERY == 0:
                checkpoint(step)
    if checkpoint:
        checkpoint(step)
    return step


def _propagate(losses: Callable[[], tuple[Tensor, Tensor]], share: float) -> tuple[Tensor, Tensor]:
    """Backward pass of the answer's loss and a ``share`` of the spelling's; returns copies of the two."""
    answer, spelling = losses()
    torch.autograd.backward(answer + share * spelling)
    return answer.detach().clone(), spelling.detach().clone()


def summary(learner: Learner) -> str:
    """Parameters by part, as JSON."""
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in learner.named_children()}
    return json.dumps(parts)
