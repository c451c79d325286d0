"""The training loop: speech that is still being synthesised in, a checkpoint in Hugging Face layout out."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import SAMPLE_RATE, ModelConfig
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.embedder import MultimodalEmbedder
from pipeline.gemma.decoder import Decoder
from pipeline.training import augment
from pipeline.training.batches import ALPHABET, Batch, Batcher, Bucket
from pipeline.training.muon import Muon
from pipeline.training.recipe import Recipe
from pipeline.training.synthesis import Chunk, chunk_path

PREFETCH = 8
LOG_EVERY = 50
CHECKPOINT_EVERY = 500
COMPILED_SHARE = 0.2
"""Share of all steps from which a bucket is compiled for, where compiling was asked for."""


@dataclass(frozen=True)
class Budget:
    """How long to train: until whichever of the two comes first; the learning rate falls to zero there."""

    steps: int
    seconds: float


class Learner(nn.Module):
    """Encoder, embedder and decoder with the two losses of training.

    Args:
        config: the model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_tower = AudioEncoder(config.audio)
        self.embed_audio = MultimodalEmbedder(config.audio, config.text.hidden_size)
        self.language_model = Decoder(config.text)
        self.characters = nn.Linear(config.audio.hidden_size, len(ALPHABET) + 1)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        text = self.config.text
        decoder = self.language_model
        nn.init.normal_(decoder.embed_tokens.weight, std=text.hidden_size**-0.5)
        nn.init.normal_(decoder.embed_tokens_per_layer.weight, std=text.hidden_size_per_layer_input**-0.5)
        for name, parameter in decoder.named_parameters():
            if name.endswith("q_norm.weight"):
                # Attention has no scale of its own; ones would start it saturated.
                parameter.fill_(text.head_dim**-0.5)
            elif "prediction_coefs" in name or "correction_coefs" in name:
                parameter.zero_()
            elif name.endswith("correct_output_scale"):
                parameter.fill_(1.0)

    def forward(
        self,
        mel: Tensor,
        batch: DeviceBatch,
        ffn_widths: Sequence[int] | None,
        *,
        answering: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Mean losses of a batch: of the answer's tokens, and CTC of its characters.

        Args:
            mel: [B, frames, 128]; without frames the batch is text alone.
            batch: the rest of it.
            ffn_widths: of the sub-model that learns in this step; None for the whole.
            answering: whether the decoder runs over speech; if not, the first loss of speech is zero.
        """
        decoder, audio = self.language_model, self.config.audio
        spelling = mel.new_zeros(())
        if mel.shape[1]:
            frames = self.audio_tower.frames(mel)
            spelling = self._spelling_loss(frames, batch)
            if not answering:
                return mel.new_zeros(()), spelling
        embedded = decoder.embed(batch.token_ids)
        hard = self.embed_audio.hard(batch.token_ids.clamp(min=audio.vocab_offset))
        is_hard = (batch.token_ids >= audio.vocab_offset).unsqueeze(-1)
        embedded = torch.where(is_hard, hard.to(embedded.dtype), embedded)
        if mel.shape[1]:
            soft = self.embed_audio(self.audio_tower.reduce(frames))
            at = torch.arange(batch.token_ids.shape[1], device=mel.device) - batch.audio_start
            spread = soft[:, at.clamp(0, soft.shape[1] - 1)]
            is_audio = (batch.token_ids == self.config.audio_token_id).unsqueeze(-1)
            embedded = torch.where(is_audio, spread.to(embedded.dtype), embedded)
        if torch.is_autocast_enabled(mel.device.type):
            embedded = embedded.to(torch.get_autocast_dtype(mel.device.type))
        hidden = decoder.hidden(batch.token_ids, embedded, ffn_widths=ffn_widths)
        logits = decoder.logits(hidden.flatten(0, 1)[batch.positions])
        return F.cross_entropy(logits.float(), batch.labels), spelling

    def _spelling_loss(self, frames: Tensor, batch: DeviceBatch) -> Tensor:
        losses = F.ctc_loss(
            self.characters(frames).float().log_softmax(-1).transpose(0, 1),
            batch.characters,
            batch.frames.clamp(max=frames.shape[1]),
            batch.character_counts,
            reduction="none",
            zero_infinity=True,
        )
        return losses.sum() / batch.character_counts.sum().clamp(min=1)

    def compile_blocks(self) -> None:
        """Compile what repeats, for fixed shapes: fused, a step takes half the time."""
        # One code object serves all blocks, in every shape and width.
        torch._dynamo.config.recompile_limit = 256
        torch._dynamo.config.accumulated_recompile_limit = 1024
        for block in (
            self.audio_tower.subsample_conv_projection,
            *self.audio_tower.conformer,
            *self.language_model.layers,
        ):
            block.compile(dynamic=False)


@dataclass(frozen=True)
class DeviceBatch:
    """The parts of a :class:`Batch` that the losses need, on the device.

    Args:
        token_ids: int64 [B, L].
        positions: those with a loss, in ``B * L``, int64 [n].
        labels: the id to predict at each of them, int64 [n].
        audio_start: position of the first audio soft token in every row.
        frames: conformer frames (40 ms) of each example's audio, int64 [B].
        characters: CTC targets in a row, int64.
        character_counts: CTC target length of each example, int64 [B].
    """

    token_ids: Tensor
    positions: Tensor
    labels: Tensor
    audio_start: int
    frames: Tensor
    characters: Tensor
    character_counts: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> DeviceBatch:
        """Copy ``batch`` over; labels are gathered to the positions that have one."""

        def there(values: npt.NDArray[np.int64]) -> Tensor:
            tensor = torch.from_numpy(values)
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

        labels = batch.labels.reshape(-1)
        positions = np.flatnonzero(labels != -100)
        return cls(
            there(batch.token_ids),
            there(positions),
            there(labels[positions]),
            batch.audio_start,
            there(batch.samples // 640 + 1),
            there(batch.characters),
            there(batch.character_counts),
        )


class SpeechPool:
    """All speech made so far, in one int16 buffer on the device.

    Args:
        folder: where chunks appear.
        drawing: told of every chunk.
        capacity: samples that the buffer holds; what does not fit is left out.
        device: of the buffer.
        making: tells whether chunks are still being made.
    """

    def __init__(
        self,
        folder: Path,
        drawing: Drawing,
        capacity: int,
        device: torch.device,
        making: Callable[[], bool],
    ) -> None:
        self.buffer = torch.zeros(capacity, dtype=torch.int16, device=device)
        self.filled = 0
        self.chunks = 0
        self._folder = folder
        self._drawing = drawing
        self._making = making

    def read(self, at_least: int = 0) -> None:
        """Take in the chunks that are ready, in order; wait until there are ``at_least`` of them.

        Raises:
            RuntimeError: they are not all there and nobody makes them any more.
            ValueError: the buffer is too small for the first of them.
        """
        while self.filled < len(self.buffer):
            path = chunk_path(self._folder, self.chunks)
            if not path.exists():
                if self.chunks >= at_least:
                    return
                if not self._making() and not path.exists():
                    raise RuntimeError(f"synthesis ended without {path}")
                time.sleep(0.2)
                continue
            chunk = Chunk.load(path)
            if self.filled + len(chunk.pcm) + 1 > len(self.buffer):
                if not self.chunks:
                    raise ValueError(f"{len(self.buffer)} samples are too few for a chunk of speech")
                return
            # A copy: what a file was read into is read-only.
            pcm = torch.from_numpy(np.array(chunk.pcm))
            self.buffer[self.filled : self.filled + len(pcm)] = pcm.to(self.buffer.device)
            self._drawing.add(chunk, self.filled)
            self.filled += len(pcm)
            self.chunks += 1


class Drawing:
    """Batches drawn ahead by processes of their own, which learn of chunks as they come.

    Args:
        batchers: one per process; they differ in their seeds.
    """

    def __init__(self, batchers: Sequence[Batcher]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ready: multiprocessing.Queue[tuple[int, Batch]] = context.Queue(PREFETCH)
        self._news = [context.Queue() for _ in batchers]
        self._processes = [
            context.Process(target=_draw, args=(batcher, news, self._ready), daemon=True)
            for batcher, news in zip(batchers, self._news, strict=True)
        ]
        for process in self._processes:
            process.start()

    def add(self, chunk: Chunk, offset: int) -> None:
        """See :meth:`Batcher.add`."""
        for news in self._news:
            news.put((dataclasses.replace(chunk, pcm=chunk.pcm[:0]), offset))

    def next(self) -> tuple[int, Batch]:
        """The next batch and which bucket it is of.

        Raises:
            RuntimeError: a process that draws has died.
        """
        while True:
            try:
                return self._ready.get(timeout=5)
            except queue.Empty:
                if not all(process.is_alive() for process in self._processes):
                    raise RuntimeError("a process that draws batches has died") from None

    def close(self) -> None:
        """End the processes."""
        for news in self._news:
            # What nobody will read any more must not keep this process from ending.
            news.cancel_join_thread()
        for process in self._processes:
            process.terminate()
            process.join()


def _draw(batcher: Batcher, news: Any, ready: Any) -> None:
    torch.set_num_threads(1)
    while True:
        while batcher.chunks == 0 or not news.empty():
            batcher.add(*news.get())
        ready.put(batcher.draw())


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
    mel = augment.log_mel(F.pad(wave, (0, 513)), banks, warp)
    return augment.mask_bands(mel, generator)


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
    torch.manual_seed(seed)
    learner.to(device).train()
    generator = torch.Generator(device).manual_seed(seed)
    chooser = np.random.default_rng(seed)
    half = [width // 2 for width in learner.config.text.intermediate_size]
    banks = augment.warped_filterbanks(device)
    steppers = optimisers(learner, recipe, fused=device.type == "cuda")
    rates = [stepper.param_groups[0]["lr"] for stepper in steppers]
    # Since the last line of the log, by what they are of.
    losses: dict[str, list[Tensor]] = {"answer": [], "ctc": [], "text": []}
    step, seconds = 0, 0.0
    with closing(Drawing(batchers)) as drawing:
        pool = SpeechPool(folder, drawing, pool_samples, device, making)
        pool.read(recipe.first_chunks)
        log(f"{pool.chunks} chunks, {pool.filled / SAMPLE_RATE / 3600:.1f} h of speech to begin with")
        begun = time.monotonic()
        while True:
            progress = max(step / budget.steps, (time.monotonic() - begun) / budget.seconds)
            if progress >= 1:
                break
            factor = min((step + 1) / recipe.warmup, 1.0) * min(1.0, 1.35 * (1 - progress)) ** 1.2
            for stepper, rate in zip(steppers, rates, strict=True):
                stepper.param_groups[0]["lr"] = rate * max(factor, 0.002)
            index, batch = drawing.next()
            bucket = recipe.buckets[index]
            mel = heard(pool.buffer, batch, bucket, banks, generator)
            widths = half if chooser.random() < recipe.half_share else None
            # A shape that is rarely drawn is not worth compiling for.
            stance = "default" if bucket.share >= COMPILED_SHARE else "force_eager"
            with torch.autocast(device.type, torch.bfloat16), torch.compiler.set_stance(stance):
                answering = progress >= recipe.hearing_share or not bucket.samples
                answer, spelling = learner(mel, DeviceBatch.of(batch, device), widths, answering=answering)
                loss = answer + (0.5 - 0.35 * progress) * spelling
                loss.backward()
            nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad(set_to_none=True)
            if answering:
                losses["answer" if bucket.samples else "text"].append(answer.detach())
            if bucket.samples:
                losses["ctc"].append(spelling.detach())
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


def summary(learner: Learner) -> str:
    """Parameters by part, as JSON."""
    parts = {name: sum(p.numel() for p in child.parameters()) for name, child in learner.named_children()}
    return json.dumps(parts)
