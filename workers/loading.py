"""Loading a model inside a worker's process, and warming it up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.chunks.voice import Listener
from pipeline.config import SAMPLE_RATE, StreamConfig, TextConfig
from pipeline.gemma.cache import KVPool
from pipeline.gemma.matformer import Widths
from pipeline.model import Gemma3n
from pipeline.speech import SpeechEncoder
from pipeline.translation import SpeechTranslator
from workers.protocols import DecoderStream, EncoderStream, Loaded

POSITIONS = 700
"""Positions of a stream, about: an instruction, half a minute of speech, its text in two languages."""


def load_encoder(path: str, device: str, dtype: str, streams: int = 32) -> Loaded[EncoderStream]:
    """Load what front halves of streams need.

    Args:
        path: the model's folder, or its Hugging Face id.
        device: in torch's words.
        dtype: name of a torch dtype.
        streams: how many there will be at a time, for which a GPU records its steps beforehand.

    Raises:
        CheckpointError: it is not a model.
    """
    model = Gemma3n.from_pretrained(path, device, getattr(torch, dtype), stages={"encoder"})
    # Have Numba compile and torch allocate before the first speaker waits for it.
    SpeechEncoder(model, StreamConfig()).push(bytes(2 * SAMPLE_RATE))
    Listener().push(np.zeros(SAMPLE_RATE, np.float32))
    model.encode_audio(np.zeros(SAMPLE_RATE, np.float32))
    model.ears.prepare(streams)
    return Loaded(partial(SpeechEncoder, model), model.ears.encode)


def load_decoder(
    path: str,
    device: str,
    dtype: str,
    ple: str | None = None,
    streams: int = 32,
    *,
    fuse: bool = False,
    beams: int = 1,
) -> Loaded[DecoderStream]:
    """Load what back halves of streams need.

    Arguments and errors are those of :func:`load_encoder`; besides, ``ple`` is a file of converted per-layer
    embeddings, and ``streams`` how many there will be at a time, for which a GPU makes room and records its
    passes beforehand, in each sub-model of the ladder: when its pool grows, that has to be done anew. With
    ``fuse`` its layers are compiled before (:meth:`pipeline.gemma.decoder.Decoder.fuse`). ``beams`` are those
    of all its streams, whatever their settings say.
    """
    model = Gemma3n.from_pretrained(path, device, getattr(torch, dtype), ple=ple, stages={"decoder"})
    if fuse:
        model.language_model.fuse()
    pool = model.new_pool(streams * POSITIONS if torch.device(device).type == "cuda" else 0)
    rungs = ladder(model.config.text)
    for ffn_widths in rungs:
        model.prepare(pool, streams, POSITIONS, ffn_widths=ffn_widths)
    model.generate([model.config.text.bos_token_id], max_new_tokens=1)  # has Numba compile its kernels
    return Loaded(partial(_translator, model, pool, beams), model.step, rungs)


def _translator(
    model: Gemma3n, pool: KVPool, beams: int, config: StreamConfig, **options: Any
) -> SpeechTranslator:
    return SpeechTranslator(model, replace(config, beams=beams), pool, **options)


def ladder(config: TextConfig) -> tuple[Widths | None, ...]:
    """Sub-models to narrow to: half the feed-forwards above the sharing point, then half of all.

    The first has the keys and values of the whole model, so that it takes over in the middle of an utterance.
    """
    half = tuple(width // 2 for width in config.intermediate_size)
    own = config.first_shared_layer
    return None, (*config.intermediate_size[:own], *half[own:]), half
