"""What codecs leave of speech."""

from __future__ import annotations

import io

import soundfile

from pipeline.config import SAMPLE_RATE
from pipeline.training.libraries import Pcm

SLOWEST, FASTEST = 6_000, 256_000
"""Bits per second that libsndfile asks of Opus for its compression levels 1 and 0."""


def opus(pcm: Pcm, bits_per_second: int) -> Pcm:
    """Speech that went through Opus (RFC 6716), as calls and conferences send it.

    Args:
        pcm: int16 [samples] at 16 kHz.
        bits_per_second: from :data:`SLOWEST` to :data:`FASTEST`; telephony has 12,000 to 24,000.

    Returns:
        Int16 [samples], in step with what went in.
    """
    coded = io.BytesIO()
    level = (FASTEST - bits_per_second) / (FASTEST - SLOWEST)
    soundfile.write(coded, pcm, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=level)
    coded.seek(0)
    decoded: Pcm = soundfile.read(coded, dtype="int16")[0]
    return decoded
