"""From the encoder's space, or the audio vocabulary, into the decoder's embedding space."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.config import AudioConfig
from pipeline.encoder.norm import RMSNorm


class MultimodalEmbedder(nn.Module):
    """Norm, linear projection, norm without weight.

    Attributes are named as the published checkpoint names its tensors below ``model.embed_audio.``.

    Args:
        config: the audio configuration: width, vocabulary and epsilon.
        text_hidden_size: width of the decoder.
    """

    def __init__(self, config: AudioConfig, text_hidden_size: int) -> None:
        super().__init__()
        self.vocab_offset = config.vocab_offset
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.hard_embedding_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.soft_embedding_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.embedding_projection = nn.Linear(config.hidden_size, text_hidden_size, bias=False)
        self.embedding_post_projection_norm = nn.RMSNorm(
            text_hidden_size, eps=config.rms_norm_eps, elementwise_affine=False
        )

    def forward(self, encodings: Tensor) -> Tensor:
        """Embed soft encodings [..., hidden] -> [..., text_hidden], of unit RMS.

        They go into the decoder as they are, without the ``sqrt(hidden)`` of its own embeddings.
        """
        return self._project(self.soft_embedding_norm(encodings))

    def hard(self, token_ids: Tensor) -> Tensor:
        """Embed token ids [...] -> [..., text_hidden].

        They range from ``vocab_offset`` to ``vocab_offset + vocab_size - 1``.
        """
        return self._project(self.hard_embedding_norm(self.embedding(token_ids - self.vocab_offset)))

    def _project(self, x: Tensor) -> Tensor:
        projected: Tensor = self.embedding_post_projection_norm(self.embedding_projection(x))
        return projected
