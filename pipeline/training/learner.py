"""The model as training sees it: encoder, embedder and decoder with their two losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import ModelConfig
from pipeline.encoder.conformer import AudioEncoder
from pipeline.encoder.embedder import MultimodalEmbedder
from pipeline.gemma.attention import Attention
from pipeline.gemma.decoder import Decoder
from pipeline.gemma.layers import MLP
from pipeline.training.batches import Batch
from pipeline.transfers import array_to_device


class Learner(nn.Module):
    """Encoder, embedder and decoder with the two losses of training.

    Args:
        config: the model's.
        letters: classes of the second loss beside its blank.
        dropout: share of values that fall out of the decoder's input, attention and feed-forward while it
            learns; the model itself has no dropout.
        smoothing: of the labels (Szegedy et al. 2016, section 7).
    """

    def __init__(
        self, config: ModelConfig, *, letters: int, dropout: float = 0.0, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout, self.smoothing = dropout, smoothing
        self.config = config
        self.audio_tower = AudioEncoder(config.audio)
        self.embed_audio = MultimodalEmbedder(config.audio, config.text.hidden_size)
        self.language_model = Decoder(config.text)
        self.characters = nn.Linear(config.audio.hidden_size, letters + 1)
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
        frames, spelling = None, mel.new_zeros(())
        if mel.shape[1]:
            frames = self.audio_tower.frames(mel)
            spelling = self.spelling_loss(frames, batch)
            if not answering:
                return mel.new_zeros(()), spelling
        answer = self.answer_loss(
            frames,
            batch.token_ids,
            batch.positions,
            batch.labels,
            ffn_widths=ffn_widths,
        )
        return answer, spelling

    def answer_loss(
        self,
        frames: Tensor | None,
        token_ids: Tensor,
        positions: Tensor,
        labels: Tensor,
        *,
        ffn_widths: Sequence[int] | None,
    ) -> Tensor:
        """Mean cross-entropy of the answer's tokens.

        Args:
            frames: conformer frames, [B, T, hidden]; None for text alone.
            token_ids: see :class:`DeviceBatch`, as the next two.
            positions: see there.
            labels: see there.
            ffn_widths: as for :meth:`forward`.
        """
        decoder, audio = self.language_model, self.config.audio
        embedded = decoder.embed(token_ids)
        hard = self.embed_audio.hard(token_ids.clamp(min=audio.vocab_offset))
        is_hard = (token_ids >= audio.vocab_offset).unsqueeze(-1)
        embedded = torch.where(is_hard, hard.to(embedded.dtype), embedded)
        if frames is not None:
            soft = self.embed_audio(self.audio_tower.reduce(frames))
            is_audio = (token_ids == self.config.audio_token_id).unsqueeze(-1)
            # The first of a row's audio tokens stands for its first soft token, and so on.
            at = (is_audio.cumsum(1) - 1).clamp(0, soft.shape[1] - 1)
            spread = soft.gather(1, at.expand(-1, -1, soft.shape[2]))
            embedded = torch.where(is_audio, spread.to(embedded.dtype), embedded)
        device = token_ids.device.type
        if torch.is_autocast_enabled(device):
            embedded = embedded.to(torch.get_autocast_dtype(device))
        embedded = F.dropout(embedded, self.dropout, self.training)
        hidden = decoder.hidden(token_ids, embedded, ffn_widths=ffn_widths)
        logits = decoder.logits(hidden.flatten(0, 1)[positions])
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)

    def spelling_loss(self, frames: Tensor, batch: DeviceBatch) -> Tensor:
        """CTC loss (Graves et al. 2006) of a batch's characters, per character.

        Args:
            frames: conformer frames, [B, T, hidden].
            batch: what was said.
        """
        losses = F.ctc_loss(
            self.characters(frames).float().log_softmax(-1).transpose(0, 1),
            batch.characters,
            batch.frames.clamp(max=frames.shape[1]),
            batch.character_counts,
            reduction="none",
            zero_infinity=True,
        )
        return losses.sum() / max(int(batch.character_counts.sum()), 1)

    def compile_stem(self) -> None:
        """Compile the convolutions, whose norms pass over the longest tensors of all, for fixed shapes."""
        self.audio_tower.subsample_conv_projection.compile(dynamic=False)

    def compile_blocks(self) -> None:
        """Compile all that repeats, for fixed shapes: fused, a step takes half the time on a CPU."""
        # One code object serves all blocks, in every shape and width.
        torch._dynamo.config.recompile_limit = 256
        torch._dynamo.config.accumulated_recompile_limit = 1024
        self.compile_stem()
        for block in (*self.audio_tower.conformer, *self.language_model.layers):
            block.compile(dynamic=False)


@dataclass(frozen=True)
class DeviceBatch:
    """The parts of a :class:`Batch` that the losses need, on the device.

    Args:
        token_ids: int64 [B, L].
        positions: those with a loss, in ``B * L``, int64 [n].
        labels: the id to predict at each of them, int64 [n]; -100 where there is none.
        frames: conformer frames (40 ms) of each example's audio, int64 [B], on the CPU: lengths on the device
            would make the CTC loss wait for it.
        characters: CTC targets in a row, int64.
        character_counts: CTC target length of each example, int64 [B], on the CPU as well.
    """

    token_ids: Tensor
    positions: Tensor
    labels: Tensor
    frames: Tensor
    characters: Tensor
    character_counts: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device, places: int | None = None) -> DeviceBatch:
        """Copy ``batch`` over.

        Args:
            batch: its labels are gathered to the positions that have one.
            device: where to.
            places: pad these to so many.
        """
        labels = batch.labels.reshape(-1)
        positions = np.flatnonzero(labels != -100)
        labels = labels[positions]
        if places is not None:
            missing = places - len(positions)
            positions = np.pad(positions, (0, missing))
            labels = np.pad(labels, (0, missing), constant_values=-100)
        return cls(
            array_to_device(batch.token_ids, device),
            array_to_device(positions, device),
            array_to_device(labels, device),
            torch.from_numpy(batch.samples // 640 + 1),
            array_to_device(batch.characters, device),
            torch.from_numpy(batch.character_counts),
        )
