"""Which token ids stand for what: text, sound, or a place where a soft token goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pipeline.config import ModelConfig


def end_of_text(config: ModelConfig) -> int:
    """The first id that is no text."""
    return min(config.vision_vocab_offset, config.audio.vocab_offset)


def check_ids(config: ModelConfig, token_ids: Sequence[int], audio: Tensor | None) -> None:
    """See that there is an embedding for each id and a place for each soft token.

    Args:
        config: of the model.
        token_ids: of one sequence.
        audio: its soft tokens, [n, text_hidden]; None for none.

    Raises:
        ValueError: there are more or fewer soft tokens than places for them, or ids without an embedding.
    """
    end = end_of_text(config)
    if audio is None and all(0 <= token < end for token in token_ids):
        return
    ids = np.asarray(token_ids, np.int64)
    places, count = int((ids == config.audio_token_id).sum()), 0 if audio is None else len(audio)
    if places != count:
        raise ValueError(f"{places} audio soft-token ids for {count} soft tokens")
    first = config.audio.vocab_offset
    known = ((ids >= 0) & (ids < end)) | ((ids >= first) & (ids < first + config.audio.vocab_size))
    unknown = ids[~known & (ids != config.audio_token_id)]
    if len(unknown):
        raise ValueError(f"ids without an embedding for text or audio: {unknown.tolist()}")
