"""Words that a model hears where nobody speaks: music, applause, breathing, keys.

    python -m benchmarks.sounds [--unseen] [--model DIR] [--minutes 10] [--source es] [--seed 0]
        [--folder DIR]

Recordings from Debian packages of games and instruments (free ones, see :data:`KINDS`), which are fetched
with ``apt-get download`` once and stay in ``--folder`` (default: ``~/.cache/surtitle/sounds``). Each kind is
played for its share of the time, one recording after the other, at levels from -30 to -3 dBFS, with pauses,
in a quiet room, and goes through a :class:`~pipeline.stream.Stream` as it is: voice gate, encoder, decoder.

Printed by kind: how many seconds of it the gate took for speech, how many utterances that made, and how many
words the final transcripts have. Each of these words is one too many. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models import NANO
from benchmarks.talks import ROOM
from pipeline.audio.files import read_audio
from pipeline.audio.pcm import to_s16le
from pipeline.config import BEAMS, SAMPLE_RATE, StreamConfig
from pipeline.model import Gemma3n
from pipeline.stream import Stream
from pipeline.wire.events import Transcript

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surtitle" / "sounds"

LONGEST = 20.0
"""Seconds that are played of a recording."""

PAUSES = (0.0, 1.5)
"""Least and most seconds between two recordings."""


@dataclass(frozen=True)
class Kind:
    """Recordings of one kind of sound.

    Args:
        package: of Debian, that has them.
        files: patterns of their paths in it.
        share: of the time.
    """

    package: str
    files: tuple[str, ...]
    share: float


KINDS = {
    "music": Kind("frozen-bubble-data", ("**/*zik*.ogg",), 0.3),
    "instruments": Kind("sonic-pi-samples", ("**/loop_*.flac", "**/ambi_*.flac", "**/guit_*.flac"), 0.2),
    "drums": Kind("sonic-pi-samples", ("**/drum_*.flac", "**/tabla_*.flac", "**/perc_*.flac"), 0.1),
    "applause": Kind("frozen-bubble-data", ("**/applause.ogg",), 0.1),
    "breathing": Kind("frozen-bubble-data", ("**/snore.ogg",), 0.1),
    "laughter": Kind("tuxpaint-data", ("**/giggle.wav",), 0.05),
    "keys": Kind("tuxpaint-data", ("**/keyclick.wav", "**/click.wav", "**/typewriterbell.wav"), 0.05),
    "alerts": Kind(
        # The others say which loudspeaker they come from.
        "sound-theme-freedesktop",
        ("**/[b-z]*.oga", "**/alarm*.oga"),
        0.1,
    ),
}
"""frozen-bubble-data and tuxpaint-data are under the GPL, sonic-pi-samples are CC0, sound-theme-freedesktop
is under the GPL and CC-BY(-SA)."""

UNSEEN = {
    "game music": Kind("asc-music", ("**/*.ogg", "**/*.mp3"), 0.5),
    "a city": Kind("lincity-ng-data", ("**/*.ogg", "**/*.wav"), 0.5),
}
"""What the gate was not tuned with; both under the GPL."""


@dataclass(frozen=True)
class Heard:
    """What came of a sound: its seconds, those that the gate let through in so many utterances, and words."""

    seconds: float
    gated: float
    utterances: int
    words: int
    text: str


class MissingSoundsError(Exception):
    """Recordings cannot be fetched."""


def fetch(package: str, folder: Path) -> Path:
    """The contents of a Debian package, without installing it.

    Raises:
        MissingSoundsError: this is no Debian, or its archive cannot be reached.
    """
    contents = folder / package
    if contents.is_dir():
        return contents
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingSoundsError(f"the sounds are in Debian packages, and there is no {tool} here")
    scratch = folder / f".{package}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    done = subprocess.run(
        ["apt-get", "-q", "download", package], cwd=scratch, capture_output=True, text=True, check=False
    )
    packages = list(scratch.glob("*.deb"))
    if done.returncode or len(packages) != 1:
        raise MissingSoundsError(f"apt-get cannot download {package}: {done.stderr.strip()[-500:]}")
    subprocess.run(["dpkg-deb", "-x", packages[0], scratch / "contents"], check=True)
    (scratch / "contents").rename(contents)
    shutil.rmtree(scratch)
    return contents


def recordings(kind: Kind, folder: Path) -> list[NDArray[np.float32]]:
    """All recordings of a kind, float32 [samples] at 16 kHz.

    Raises:
        MissingSoundsError: they cannot be fetched, or the package has others now.
    """
    contents = fetch(kind.package, folder)
    paths = sorted({path for pattern in kind.files for path in contents.glob(pattern) if path.is_file()})
    if not paths:
        raise MissingSoundsError(f"{kind.package} has no {' or '.join(kind.files)}")
    return [read_audio(path) for path in paths]


def played(sounds: Sequence[NDArray[np.float32]], seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Recordings one after the other, from anywhere in them on, [seconds * 16000]."""
    random, noise = Random(seed), np.random.default_rng(seed)
    wave = noise.normal(0, ROOM, round(seconds * SAMPLE_RATE)).astype(np.float32)
    at, turn = SAMPLE_RATE, 0
    while at < len(wave):
        sound = sounds[turn % len(sounds)]
        begin = random.randint(0, max(0, len(sound) - round(LONGEST * SAMPLE_RATE)))
        sound = sound[begin : begin + round(LONGEST * SAMPLE_RATE)][: len(wave) - at]
        level = 10 ** (random.uniform(-30, -3) / 20)
        wave[at : at + len(sound)] += sound * np.float32(level / max(1e-6, float(np.abs(sound).max())))
        at += len(sound) + round(random.uniform(*PAUSES) * SAMPLE_RATE)
        turn += 1
    return wave.clip(-1, 1)


def hear(model: Gemma3n, waveform: NDArray[np.float32], source: str) -> Heard:
    """What a stream makes of a sound."""
    other = next(language for language in model.prompt.languages if language != source)
    stream = Stream(model, source, [other], config=StreamConfig(beams=BEAMS))
    events = []
    for at in range(0, len(waveform), SAMPLE_RATE):
        events += stream.feed(to_s16le(waveform[at : at + SAMPLE_RATE]))
    events += stream.close()
    finals = [event for event in events if isinstance(event, Transcript) and event.final]
    text = " ".join(event.stable for event in finals if event.stable)
    gated = sum(event.end - event.start for event in finals)
    return Heard(len(waveform) / SAMPLE_RATE, gated, len(finals), len(text.split()), text)


def measure(
    model: Gemma3n, kinds: Mapping[str, Kind], folder: Path, *, minutes: float, source: str, seed: int
) -> dict[str, Heard]:
    """What is heard in each kind of sound."""
    print(f"{'sound':<13}{'seconds':>8}{'gated':>8}{'utterances':>12}{'words':>7}")
    results = {}
    for name, kind in kinds.items():
        heard = hear(model, played(recordings(kind, folder), 60 * minutes * kind.share, seed), source)
        results[name] = heard
        print(
            f"{name:<13}{heard.seconds:>8.1f}{heard.gated:>8.1f}{heard.utterances:>12}{heard.words:>7}",
            flush=True,
        )
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=NANO, help="by default the bundled one")
    parser.add_argument("--minutes", type=float, default=10.0, help="of sound")
    parser.add_argument("--source", default="es", help="language that the stream is told is spoken")
    parser.add_argument("--seed", type=int, default=0, help="of the parts that are played, and how loud")
    parser.add_argument("--unseen", action="store_true", help="play what the gate was not tuned with")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the recordings stay")
    options = parser.parse_args(argv)
    if options.minutes <= 0:
        parser.error("--minutes must be above 0")
    torch.set_num_threads(1)
    try:
        results = measure(
            Gemma3n.from_pretrained(options.model),
            UNSEEN if options.unseen else KINDS,
            options.folder,
            minutes=options.minutes,
            source=options.source,
            seed=options.seed,
        )
    except MissingSoundsError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    words = sum(heard.words for heard in results.values())
    kinds = {name: asdict(heard) for name, heard in results.items()}
    print(json.dumps({"hallucinated_words": words, "minutes": options.minutes, "kinds": kinds}))


if __name__ == "__main__":
    main()
