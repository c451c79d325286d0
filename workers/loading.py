"""Loading a model inside a worker's process, and warming it up."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from pipeline.config import SAMPLE_RATE, StreamConfig
from pipeline.model import Gemma3n
from pipeline.speech import SpeechEncoder
from pipeline.translation import SpeechTranslator
from workers.protocols import DecoderStream, EncoderStream, OpenStream


def load_encoder(path: str, device: str, dtype: str) -> OpenStream[EncoderStream]:
    """Load what front halves of streams need.

    Args:
        path: the model's folder, or its Hugging Face id.
        device: in torch's words.
        dtype: name of a torch dtype.

    Raises:
        CheckpointError: it is not a model.
    """
    model = Gemma3n.from_pretrained(path, device=device, dtype=getattr(torch, dtype))
    open_stream = partial(SpeechEncoder, model)
    _warm_up(model, open_stream)
    return open_stream


def load_decoder(path: str, device: str, dtype: str, ple: str | None = None) -> OpenStream[DecoderStream]:
    """Load what back halves of streams need.

    Arguments and errors are those of :func:`load_encoder`; besides, ``ple`` is a file of converted per-layer
    embeddings.
    """
    model = Gemma3n.from_pretrained(path, device=device, dtype=getattr(torch, dtype), ple=ple)
    open_stream = partial(SpeechTranslator, model)
    model.generate([model.config.text.bos_token_id], max_new_tokens=1)  # has Numba compile its kernel
    return open_stream


def _warm_up(model: Gemma3n, open_stream: OpenStream[EncoderStream]) -> None:
    """Have Numba compile and torch allocate before the first speaker waits for it."""
    open_stream(StreamConfig()).push(bytes(2 * SAMPLE_RATE))
    model.encode_audio(np.zeros(SAMPLE_RATE, np.float32))
