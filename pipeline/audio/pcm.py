"""A client's audio bytes to mono float32 samples, at the client's sample rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.config import AudioFormat
from pipeline.errors import AudioError

MAX_AMPLITUDE = 8.0
"""Largest float sample that is taken for audio: full scale is 1, and 18 dB above it is no overshoot."""


def _mulaw_table() -> NDArray[np.float32]:
    """The 256 sample values of ITU-T G.711 mu-law, in float32 of full scale 1."""
    code = ~np.arange(256, dtype=np.uint8)
    mantissa, exponent = (code & 0x0F).astype(np.int32), (code >> 4 & 0x07).astype(np.int32)
    magnitude = ((2 * mantissa + 33) << exponent) - 33
    signed = np.where(code & 0x80, -magnitude, magnitude)
    # G.711 values have 14 bits, sign included.
    return (signed / 8192).astype(np.float32)


def _alaw_table() -> NDArray[np.float32]:
    """The 256 sample values of ITU-T G.711 A-law, in float32 of full scale 1."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    mantissa, exponent = (code & 0x0F).astype(np.int32), (code >> 4 & 0x07).astype(np.int32)
    step = 2 * mantissa + 1
    magnitude = np.where(exponent == 0, step, (step + 32) << np.maximum(exponent - 1, 0))
    signed = np.where(code & 0x80, magnitude, -magnitude)
    # G.711 values have 13 bits, sign included.
    return (signed / 4096).astype(np.float32)


_G711 = {"mulaw": _mulaw_table(), "alaw": _alaw_table()}


class PcmDecoder:
    """Decodes a stream of interleaved samples that may be cut anywhere, also in mid-sample.

    Args:
        audio_format: encoding, sample rate and channels of the bytes.

    Raises:
        AudioError: the encoding is a compressed one.
    """

    def __init__(self, audio_format: AudioFormat) -> None:
        if audio_format.compressed:
            raise AudioError(
                f"{audio_format.encoding} is no PCM; decode it with pipeline.audio.codecs before"
            )
        self._format = audio_format
        # The first bytes of a frame whose rest has not arrived yet.
        self._partial = b""

    def push(self, data: bytes) -> NDArray[np.float32]:
        """Decode ``data`` and what was left over from before.

        Args:
            data: any number of bytes.

        Returns:
            Float32 ``[frames]``, the mean of the channels, full scale 1.

        Raises:
            AudioError: a float sample that is not finite, or far outside [-1, 1].
        """
        data = self._partial + data
        whole = len(data) - len(data) % self._format.bytes_per_frame
        self._partial = data[whole:]
        match self._format.encoding:
            case "pcm_s16le":
                samples = np.frombuffer(data, dtype="<i2", count=whole // 2) * np.float32(1 / 32768)
            case "pcm_f32le":
                samples = np.frombuffer(data, dtype="<f4", count=whole // 4).astype(np.float32)
                check_amplitude(samples)
            case law:
                samples = _G711[law][np.frombuffer(data, dtype=np.uint8, count=whole)]
        return mix_down(samples.reshape(-1, self._format.channels))


def to_s16le(samples: NDArray[np.float32]) -> bytes:
    """Samples of full scale 1 as 16-bit little-endian integers, those beyond it clipped."""
    # Full scale is 32,768, so that 16-bit recordings arrive as they are.
    pcm: bytes = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype("<i2").tobytes()
    return pcm


def mix_down(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels: float32 ``[frames, channels]`` to ``[frames]``."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)


def check_amplitude(samples: NDArray[np.float32]) -> None:
    """Refuse float samples that cannot be audio of full scale 1.

    Raises:
        AudioError: NaN, infinity, or a value beyond :data:`MAX_AMPLITUDE`.
    """
    # One comparison catches all three: it is false for NaN.
    good = np.abs(samples) <= MAX_AMPLITUDE
    if not good.all():
        value = float(samples[~good][0])
        raise AudioError(f"a float audio sample is {value:g}; samples must be finite and within [-1, 1]")
