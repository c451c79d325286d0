"""Rooms, noise, microphones and vocal tracts, applied to whole batches on the device.

Everything here works on [B, samples] float32 at 16 kHz with a generator of its own, so that a run can be
repeated. The front end at the end is the one of :mod:`pipeline.audio.mel` in batched form, with the
frequency axis of each example warped: vocal tract length perturbation (Jaitly and Hinton 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import SAMPLE_RATE
from pipeline.training.batches import Batch
from pipeline.transfers import array_to_device

FRAME, HOP, FFT, BINS = 512, 160, 1024, 128
LOW_HZ, HIGH_HZ, PREEMPHASIS, FLOOR = 125.0, 7600.0, 0.97, 1e-5
UNIFORM_WARPS, WARPS = 17, 64
"""Vocal tracts: those that are longer or shorter as a whole, and all of them."""
WIDEST = 1.2
"""Factor by which formants move at most, up or down."""
BENDS, MOST_BENT = 3, 0.5
"""Waves in which pace comes and goes, and by how much of itself it changes at most."""


def gather_speech(pool: Tensor, batch: Batch, samples: int, device: torch.device) -> Tensor:
    """The batch's speech laid out in silence, float32 [B, samples] at most 1 in magnitude.

    Args:
        pool: int16, all utterances in a row.
        batch: which pieces go where; a piece is resampled by linear interpolation, which changes pitch,
            formants and pace together.
        samples: width of the result.
        device: of pool and result.
    """
    nowhere = len(batch.samples) * samples
    out = torch.zeros(nowhere + 1, device=device)
    if len(batch.piece_source):
        source, start, example, speed, gain = (
            array_to_device(values, device)
            for values in (
                batch.piece_source,
                batch.piece_start,
                batch.piece_example,
                batch.piece_speed,
                batch.piece_gain,
            )
        )
        # Lengths come from the CPU: to ask the device for sizes would be to wait for it.
        lengths = ((batch.piece_samples - 2) / batch.piece_speed).astype(np.int64).clip(min=1)
        length = array_to_device(lengths, device)
        piece = torch.repeat_interleave(
            torch.arange(len(length), device=device), length, output_size=int(lengths.sum())
        )
        within = torch.arange(len(piece), device=device) - (length.cumsum(0) - length)[piece]
        at = within * speed[piece]
        left = at.long()
        fraction = at - left
        index = source[piece] + left
        value = torch.lerp(pool[index].float(), pool[index + 1].float(), fraction)
        place = start[piece] + within
        target = torch.where(place < samples, example[piece] * samples + place, nowhere)
        out[target] = value * gain[piece] / 32_768
    return out[:nowhere].view(-1, samples)


@dataclass(frozen=True)
class _Dice:
    """Random numbers for a batch, each example its own.

    Args:
        generator: where they come from.
        count: examples in the batch.
        device: of the generator and of everything drawn.
    """

    generator: torch.Generator
    count: int
    device: torch.device

    def uniform(self, low: float, high: float) -> Tensor:
        """[count, 1] between ``low`` and ``high``."""
        drawn = torch.rand(self.count, 1, generator=self.generator, device=self.device)
        return drawn * (high - low) + low

    def some(self, share: float) -> Tensor:
        """Bool [count, 1], true for about ``share`` of the examples."""
        drawn = torch.rand(self.count, 1, generator=self.generator, device=self.device)
        return drawn < share

    def normal(self, samples: int) -> Tensor:
        """White noise of unit power, [count, samples]."""
        return torch.randn(self.count, samples, generator=self.generator, device=self.device)


def augment(speech: Tensor, generator: torch.Generator) -> Tensor:
    """Speech as a microphone in a room might deliver it: each effect hits some of the examples.

    Args:
        speech: float32 [B, samples]; rows of zeros are rooms in which nobody speaks.
        generator: of every random choice, on the device of ``speech``.

    Returns:
        Float32 [B, samples], at most 1 in magnitude.
    """
    device, (count, samples) = speech.device, speech.shape
    dice = _Dice(generator, count, device)
    size = -(-(samples + SAMPLE_RATE // 2) // 4800) * 4800
    spectrum = torch.fft.rfft(speech, size)
    frequency = torch.linspace(0, SAMPLE_RATE / 2, size // 2 + 1, device=device)
    spectrum = spectrum * torch.where(dice.some(0.35), _room(dice, size), 1.0)
    spectrum = spectrum * torch.where(dice.some(0.6), _microphone(dice, frequency), 1.0)
    wave = torch.fft.irfft(spectrum, size)[:, :samples]

    loudness = wave.square().sum(1, keepdim=True) / (wave.abs() > 1e-4).sum(1, keepdim=True).clamp(min=1)
    level = loudness.sqrt().clamp(min=3e-3)
    ratio_db = torch.where(dice.some(0.5), dice.uniform(3, 25), dice.uniform(25, 55))
    wave = wave + _noise(dice, wave, frequency, size) * level * 10 ** (-ratio_db / 20)

    wave = wave / wave.abs().amax(1, keepdim=True).clamp(min=1e-4)
    wave = wave * 10 ** (dice.uniform(-36, 0) / 20)
    clipped = (wave * dice.uniform(1.5, 5)).clamp(-0.9, 0.9)
    wave = torch.where(dice.some(0.04) & (wave.abs().amax(1, keepdim=True) > 0.3), clipped, wave)
    wave = torch.where(dice.some(0.08), companded(wave), wave)
    quantised: Tensor = (wave * 32_768).round() / 32_768
    return quantised


def companded(wave: Tensor) -> Tensor:
    """``wave`` in 8 bits of the mu-law (ITU-T G.711), at most 1 in magnitude."""
    compressed = torch.sign(wave) * torch.log1p(255 * wave.abs()) / math.log(256)
    compressed = (compressed * 127).round() / 127
    return torch.sign(compressed) * torch.expm1(compressed.abs() * math.log(256)) / 255


def _room(dice: _Dice, size: int) -> Tensor:
    """Transfer functions of rooms, complex [B, size // 2 + 1]: a direct path and a decaying noise tail."""
    length = SAMPLE_RATE // 2
    time = torch.arange(length, device=dice.device) / SAMPLE_RATE
    # Within the reverberation time it falls by 60 dB, a factor of exp(6.9).
    decay = 6.9 / dice.uniform(0.08, 0.6)
    tail = dice.normal(length) * torch.exp(-decay * time) * (time > 0.002)
    tail = tail / tail.square().sum(1, keepdim=True).sqrt() * 10 ** (dice.uniform(-14, 1) / 20)
    tail[:, 0] = 1.0
    response: Tensor = torch.fft.rfft(tail, size)
    return response


def _microphone(dice: _Dice, frequency: Tensor) -> Tensor:
    """Smooth random equalisation, for some with the band of a telephone or a cheap microphone."""
    octave = torch.log2(frequency.clamp(min=50) / 1000)
    gain_db = dice.uniform(-5, 5) * octave / 2
    for _ in range(3):
        centre, width = dice.uniform(-3.5, 3), dice.uniform(0.3, 1.5)
        gain_db = gain_db + dice.uniform(-8, 8) * torch.exp(-(((octave - centre) / width) ** 2))
    response = 10 ** (gain_db / 20)
    low = dice.uniform(20, 350)
    high = torch.where(dice.some(0.5), dice.uniform(3_200, 4_000), dice.uniform(4_000, 8_000))
    band = torch.sigmoid((frequency - low) / 25) * torch.sigmoid((high - frequency) / 100)
    return torch.where(dice.some(0.35), response * band, response)


def _noise(dice: _Dice, wave: Tensor, frequency: Tensor, size: int) -> Tensor:
    """Noise of unit power: coloured, hum, babble of the other examples, music-like chords, or a mixture."""
    samples = wave.shape[1]
    white = dice.normal(samples)
    slope = dice.uniform(0, 2)
    coloured = torch.fft.irfft(
        torch.fft.rfft(white, size) * (frequency.clamp(min=60) / 1000) ** (-slope / 2), size
    )[:, :samples]
    time = torch.arange(samples, device=dice.device) / SAMPLE_RATE
    # A fixed number of rows: to find out which of them were drawn would be to wait for the device.
    rows = torch.randperm(len(wave), generator=dice.generator, device=dice.device)[: round(0.15 * len(wave))]
    with_tones = torch.zeros(len(wave), 1, dtype=torch.bool, device=dice.device)
    with_tones[rows] = True
    tones = torch.zeros_like(wave)
    # Partials of one pitch are an instrument or a voice without words, others a chord over a hum.
    harmonic, root = dice.some(0.4), dice.uniform(80, 700)
    for partial in range(1, 5):
        apart = dice.uniform(48, 62) if partial == 1 else dice.uniform(100, 1500)
        pitch = torch.where(harmonic, partial * root, apart)
        depth, beat, level = dice.uniform(0, 0.5), dice.uniform(0.2, 5), dice.uniform(0, 1)
        wobble = depth[rows] * torch.sin(2 * math.pi * beat[rows] * time)
        tones[rows] += level[rows] * torch.sin(2 * math.pi * pitch[rows] * time + 6 * wobble)
    # From a slow swell to the pace of laughter and applause, whose bursts are short.
    phase = 2 * math.pi * dice.uniform(0.1, 8) * time + dice.uniform(0, 6.28)
    swell = (torch.sin(phase) * 0.5 + 0.6).clamp(0) ** dice.uniform(1, 4)
    babble = wave.roll(1, 0) + wave.roll(2, 0).roll(samples // 3, 1) + wave.roll(3, 0).flip(0)

    noise = _unit(coloured) * torch.where(dice.some(0.3), swell, 1.0)
    chords = _unit(tones) * torch.where(dice.some(0.5), swell, 1.0)
    noise = torch.where(with_tones, chords + 0.1 * noise, noise)
    # Where nobody speaks, other speech would be speech, not noise.
    spoken = wave.abs().amax(1, keepdim=True) > 0.01
    return _unit(torch.where(dice.some(0.2) & spoken, _unit(babble) + 0.3 * noise, noise))


def _unit(wave: Tensor) -> Tensor:
    return wave / wave.square().mean(1, keepdim=True).sqrt().clamp(min=1e-4)


def warped_filterbanks(device: torch.device) -> Tensor:
    """HTK mel filterbanks over warped frequency axes.

    Returns:
        Float32 [WARPS, FFT // 2 + 1, BINS]. The first :data:`UNIFORM_WARPS` move all formants by one factor
        of :data:`WIDEST` at most, up or down, and the middle one of them is exact; the others move the
        regions of the first, the second and the higher formants each by a factor of its own.
    """
    nyquist = SAMPLE_RATE / 2
    knots = torch.tensor([0.0, 700.0, 1_900.0, 3_400.0, 4_800.0], dtype=torch.float64)
    factors = torch.empty(WARPS, len(knots), dtype=torch.float64)
    middle = UNIFORM_WARPS // 2
    factors[:UNIFORM_WARPS] = WIDEST ** ((torch.arange(UNIFORM_WARPS).double() - middle) / middle)[:, None]
    bent = torch.rand(WARPS - UNIFORM_WARPS, len(knots), dtype=torch.float64, generator=_fixed())
    factors[UNIFORM_WARPS:] = WIDEST ** (2 * bent - 1)
    frequency = torch.linspace(0, nyquist, FFT // 2 + 1, dtype=torch.float64)
    mel_points = torch.linspace(_mel(LOW_HZ), _mel(HIGH_HZ), BINS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mel_points / 2595) - 1)
    banks = []
    for factor in factors:
        # Piecewise linear, and behind the last knot straight to the end of the axis.
        knee = knots / factor.clamp(min=1.0)
        warped = torch.from_numpy(
            np.interp(frequency, [*knee, nyquist], [*torch.cummax(knee * factor, 0).values, nyquist])
        )
        rising = (warped[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - warped[:, None]) / (edges[2:] - edges[1:-1])
        banks.append(torch.minimum(rising, falling).clamp(min=0))
    return torch.stack(banks).float().to(device)


def undoing(speed: Tensor) -> Tensor:
    """Warps that put formants and pitch of resampled speech where they were, as far as uniform ones reach.

    Args:
        speed: by how much it is faster, [B].

    Returns:
        Which of the filterbanks, int64 [B]; with them speech differs from what it was in its pace alone.
    """
    middle = UNIFORM_WARPS // 2
    steps = -speed.log() / math.log(WIDEST) * middle
    return (steps.round().long() + middle).clamp(0, UNIFORM_WARPS - 1)


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def log_mel(wave: Tensor, filterbanks: Tensor, warp: Tensor) -> Tensor:
    """Gemma 3n's front end over a batch, [B, samples] -> [B, frames, 128].

    Args:
        wave: float32.
        filterbanks: from :func:`warped_filterbanks`.
        warp: which of them each example gets, int64 [B].
    """
    frames = wave.unfold(1, FRAME + 1, HOP)[..., :FRAME]
    emphasised = torch.cat(
        [frames[..., :1] * (1 - PREEMPHASIS), frames[..., 1:] - PREEMPHASIS * frames[..., :-1]], -1
    )
    window = torch.hann_window(FRAME, periodic=True, device=wave.device)
    magnitude = torch.fft.rfft(emphasised * window, FFT).abs()
    mel: Tensor = (magnitude @ filterbanks[warp]).clamp(min=FLOOR).log()
    return mel


def bend_time(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the examples are faster here and slower there, at the same pitch, as nobody synthesised speaks.

    What SpecAugment's time warping does at one place (Park et al. 2019) is done all along.

    Args:
        mel: [B, frames, bins].
        generator: of every random choice, on the device of ``mel``.
    """
    count, frames, _ = mel.shape
    dice = _Dice(generator, count, mel.device)
    seconds = torch.arange(frames, device=mel.device) * (HOP / SAMPLE_RATE)
    moved = torch.zeros(count, frames, device=mel.device)
    for _ in range(BENDS):
        speed = 2 * math.pi * dice.uniform(0.5, 2.0)
        change = dice.uniform(0, MOST_BENT / BENDS)
        # Its derivative is how much faster or slower it is. Slower waves would move the ends too far.
        moved = moved + change / speed * torch.sin(speed * seconds + dice.uniform(0, 2 * math.pi))
    moved = torch.where(dice.some(0.5), moved, 0.0)
    at = (torch.arange(frames, device=mel.device) + moved * (SAMPLE_RATE / HOP)).clamp(0, frames - 1)
    left = at.long().clamp(max=max(0, frames - 2))
    fraction = (at - left).unsqueeze(-1)
    row = torch.arange(count, device=mel.device)[:, None]
    return torch.lerp(mel[row, left], mel[row, (left + 1).clamp(max=frames - 1)], fraction)


def blur_bands(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Some examples lose the harmonics that the narrow low bands resolve: voices differ most in them.

    Args:
        mel: [B, frames, bins].
        generator: of every random choice, on the device of ``mel``.
    """
    count = len(mel)
    smooth = F.avg_pool1d(mel.flatten(0, 1)[:, None], 5, 1, 2, count_include_pad=False).view_as(mel)
    share = torch.rand(count, 1, 1, generator=generator, device=mel.device)
    share = torch.where(share < 0.75, 0.0, (share - 0.75) * 4)
    return torch.lerp(mel, smooth, share)


def mask_bands(mel: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment (Park et al. 2019): up to two bands and two stretches of time of each example fall quiet.

    Args:
        mel: [B, frames, bins].
        generator: of every random choice, on the device of ``mel``.
    """
    count, frames, bins = mel.shape
    device = mel.device
    hidden = torch.zeros(count, frames, bins, dtype=torch.bool, device=device)
    for size, axis, widest in ((bins, 2, 18), (frames, 1, 16), (bins, 2, 18), (frames, 1, 16)):
        width = torch.rand(count, 1, 1, generator=generator, device=device) * widest
        start = torch.rand(count, 1, 1, generator=generator, device=device) * (size - width)
        at = torch.arange(size, device=device).view((1, 1, -1) if axis == 2 else (1, -1, 1))
        used = torch.rand(count, 1, 1, generator=generator, device=device) < 0.5
        hidden |= (at >= start) & (at < start + width) & used
    return torch.where(hidden, math.log(FLOOR) * 0.6, mel)
