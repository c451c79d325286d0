"""What stands between a speaker and the model: noise, rooms, telephones, codecs, and how they speak.

Each condition changes one thing, the same way every time (noise and rooms are drawn by the clip's number), so
that figures say what it costs. Training augments with most of these at random
(:mod:`pipeline.training.augment`); here they are as strong as they are met.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from pipeline.config import SAMPLE_RATE
from pipeline.training import augment
from pipeline.training.codecs import opus

Waveform = NDArray[np.float32]

TELEPHONE_HZ = (300.0, 3_400.0)
OPUS_BITS_PER_SECOND = 12_000
REVERBERATION_SECONDS, REVERBERATION_DB = 0.5, -3.0
"""Of a meeting room: the time in which the tail falls by 60 dB, and its level to the direct path's."""
FFT, HOP = 1024, 256
"""Of the phase vocoder, in samples."""


def noisy(clip: Waveform, seed: int, ratio_db: float) -> Waveform:
    """Pink noise, ``ratio_db`` below the speech."""
    white = np.fft.rfft(np.random.default_rng(seed).normal(size=len(clip)))
    pink = np.fft.irfft(white / np.sqrt(np.arange(1, len(white) + 1)), len(clip))
    return _audible(clip + pink * np.std(clip) / np.std(pink) * 10 ** (-ratio_db / 20))


def reverberant(clip: Waveform, seed: int) -> Waveform:
    """A room: the direct path, and behind it a tail of noise that dies away."""
    tail = np.random.default_rng(seed).normal(size=int(REVERBERATION_SECONDS * SAMPLE_RATE))
    tail *= 10 ** (-3 * np.arange(len(tail)) / len(tail))
    tail[: SAMPLE_RATE // 500] = 0
    tail *= 10 ** (REVERBERATION_DB / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    size = len(clip) + len(tail)
    heard = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(tail, size), size)
    return _audible(heard[: len(clip)])


def telephoned(clip: Waveform) -> Waveform:
    """The band of a telephone, 300 to 3,400 Hz, in 8 bits of the mu-law."""
    spectrum = np.fft.rfft(clip)
    hertz = np.fft.rfftfreq(len(clip), 1 / SAMPLE_RATE)
    low, high = TELEPHONE_HZ
    spectrum[(hertz < low) | (hertz > high)] = 0
    return companded(_audible(np.fft.irfft(spectrum, len(clip))))


def companded(clip: Waveform) -> Waveform:
    """8 bits of the mu-law."""
    quantised: Waveform = augment.companded(torch.from_numpy(clip)).numpy()
    return quantised


def coded(clip: Waveform) -> Waveform:
    """Opus with 12 kbit/s, as calls over bad networks have it."""
    return opus((clip * 32_767).astype(np.int16), OPUS_BITS_PER_SECOND).astype(np.float32) / 32_768


def stretched(clip: Waveform, factor: float) -> Waveform:
    """``factor`` times as long at the same pitch (a phase vocoder, Flanagan and Golden 1966)."""
    window = torch.hann_window(FFT)
    spectrum = torch.stft(torch.from_numpy(clip), FFT, HOP, window=window, return_complex=True)
    at = torch.arange(0, spectrum.shape[1] - 1, 1 / factor)
    before, fraction = at.long(), at.frac()
    loudness = torch.lerp(spectrum[:, before].abs(), spectrum[:, before + 1].abs(), fraction)
    advance = spectrum[:, before + 1].angle() - spectrum[:, before].angle()
    phase = spectrum[:, :1].angle() + torch.cumsum(advance.roll(1, 1).index_fill(1, torch.tensor(0), 0), 1)
    length = round(len(clip) * factor)
    wave = torch.istft(torch.polar(loudness, phase), FFT, HOP, window=window, length=length)
    return _audible(wave.numpy())


def pitched(clip: Waveform, factor: float) -> Waveform:
    """``factor`` times as high, formants with it, and as long as before."""
    return _audible(soxr.resample(stretched(clip, factor), SAMPLE_RATE * factor, SAMPLE_RATE))


def _audible(wave: NDArray[np.floating]) -> Waveform:
    """At most 1 in magnitude."""
    return (wave / max(1.0, float(np.abs(wave).max(initial=0.0)))).astype(np.float32)


CONDITIONS: dict[str, Callable[[Waveform, int], Waveform]] = {
    "clean": lambda clip, seed: clip,
    "noise-20db": lambda clip, seed: noisy(clip, seed, 20),
    "noise-10db": lambda clip, seed: noisy(clip, seed, 10),
    "noise-0db": lambda clip, seed: noisy(clip, seed, 0),
    "reverberation": reverberant,
    "telephone": lambda clip, seed: telephoned(clip),
    "mu-law": lambda clip, seed: companded(clip),
    "opus": lambda clip, seed: coded(clip),
    "fast": lambda clip, seed: stretched(clip, 1 / 1.25),
    "slow": lambda clip, seed: stretched(clip, 1.25),
    "high": lambda clip, seed: pitched(clip, 1.2),
    "low": lambda clip, seed: pitched(clip, 1 / 1.2),
}
"""By name. Each takes a clip, float32 [samples] at 16 kHz and at most 1 in magnitude, and its number."""
