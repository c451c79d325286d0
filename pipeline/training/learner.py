"""The model as training sees it: encoder, embedder and decoder with their two losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import ModelConfig
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.embedder import MultimodalEmbedder
from pipeline.gemma.attention import Attention
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.layers import MLP
from pipeline.training.batches import ALPHABET, Batch


class Learner(nn.Module):
    """Encoder, embedder and decoder with the two losses of training.

    Args:
        config: the model's.
        dropout: share of values that fall out of the decoder's input, attention and feed-forward while it
            learns; the model itself has no dropout.
        smoothing: of the labels (Szegedy et al. 2016, section 7).
    """

    def __init__(self, config: ModelConfig, *, dropout: float = 0.0, smoothing: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.smoothing = dropout, smoothing
        self.config = config
        self.audio_tower = AudioEncoder(config.audio)
        self.embed_audio = MultimodalEmbedder(config.audio, config.text.hidden_size)
        self.language_model = Decoder(config.text)
        self.characters = nn.Linear(config.audio.hidden_size, len(ALPHABET) + 1)
        self._initialise()
        if dropout:
            for module in self.language_model.modules():
                if isinstance(module, (Attention, MLP)):
                    module.register_forward_hook(self._drop)

    def _drop(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return F.dropout(output, self.dropout, module.training)

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
        embedded = F.dropout(embedded, self.dropout, self.training)
        hidden = decoder.hidden(batch.token_ids, embedded, ffn_widths=ffn_widths)
        logits = decoder.logits(hidden.flatten(0, 1)[batch.positions])
        return F.cross_entropy(logits.float(), batch.labels, label_smoothing=self.smoothing), spelling

    def _spelling_loss(self, frames: Tensor, batch: DeviceBatch) -> Tensor:
        losses = F.ctc_loss(
            self.characters(frames).float().log_softmax(-1).transpose(0, 1),
            batch.characters,
            batch.frames.clamp(max=frames.shape[1]),
            batch.character_counts,
            reduction="none",
            zero_infinity=True,
        )
        return losses.sum() / max(int(batch.character_counts.sum()), 1)

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
        frames: conformer frames (40 ms) of each example's audio, int64 [B], on the CPU: lengths on the device
            would make the CTC loss wait for it.
        characters: CTC targets in a row, int64.
        character_counts: CTC target length of each example, int64 [B], on the CPU as well.
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
            torch.from_numpy(batch.samples // 640 + 1),
            there(batch.characters),
            torch.from_numpy(batch.character_counts),
        )
