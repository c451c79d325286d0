"""Audio files to 16 kHz mono float32 samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.audio.pcm import check_amplitude, mix_down
from pipeline.audio.resample import Resampler
from pipeline.errors import AudioError

FORMATS = "WAV, FLAC, OGG (Vorbis, Opus), MP3 and AIFF"
"""What libsndfile reads of what people have; it reads some more."""

MIN_RATE, MAX_RATE = 1_000, 1_000_000
"""Sample rates outside these come from a damaged header."""

_BLOCK = 1 << 18


def read_audio(path: str | Path) -> NDArray[np.float32]:
    """Read a recording: any sample format and rate, channels averaged.

    A WAV file that is shorter than its header says is read to where it ends, for that is what a recorder
    leaves that was cut off or that wrote into a pipe. In formats whose decoder notices that something is
    missing (FLAC, OGG), that is an error.

    Args:
        path: the file.

    Returns:
        Float32 ``[samples]`` at 16 kHz, at least one sample, full scale 1.

    Raises:
        AudioError: there is no such file, it cannot be read, it is not audio, it holds no samples, or
            one that is not a finite number. The message names the file and is one sentence.
    """
    path = Path(path)
    _check_readable(path)
    try:
        with soundfile.SoundFile(path) as file:
            if not MIN_RATE <= file.samplerate <= MAX_RATE:
                raise AudioError(f"its sample rate of {file.samplerate} Hz cannot be right")
            pieces = _resampled(file)
    except soundfile.LibsndfileError as error:
        # error_string alone: str(error) repeats the path.
        reason = error.error_string.strip().rstrip(".") or "Format not recognised"
        raise AudioError(
            f"{path}: cannot be read as audio ({reason}); accepted are {FORMATS} files"
        ) from None
    except TypeError:
        # soundfile asks for the sample rate of files named .raw.
        raise AudioError(f"{path}: raw samples without a header; accepted are {FORMATS} files") from None
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from None
    waveform = np.concatenate(pieces)
    if not len(waveform):
        raise AudioError(f"{path}: holds no audio samples")
    return waveform


def _check_readable(path: Path) -> None:
    """Tell apart what libsndfile calls "System error" and "Format not recognised"."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise AudioError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise AudioError(f"{path}: is a folder, not an audio file") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened: {error.strerror}") from None
    if empty:
        raise AudioError(f"{path}: the file is empty; accepted are {FORMATS} files")


def _resampled(file: soundfile.SoundFile) -> list[NDArray[np.float32]]:
    resampler = Resampler(file.samplerate)
    frames = max(1, _BLOCK // file.channels)
    pieces: list[NDArray[np.float32]] = []
    while True:
        block: NDArray[np.float32] = file.read(frames, dtype="float32", always_2d=True)
        if not len(block):
            return [*pieces, resampler.flush()]
        check_amplitude(block)
        pieces.append(resampler.push(mix_down(block)))
