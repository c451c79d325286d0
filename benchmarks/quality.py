"""How well a model hears and translates sentences that it was not trained on.

    python -m benchmarks.quality [--model DIR] [--limit 200] [--engine espeak-ng|mbrola] [--live] [--json]
    python -m benchmarks.quality --human DIR [--model DIR] [--limit 200] [--live] [--json]
    python -m benchmarks.quality --noise [--model DIR] [--limit 200] [--live] [--json]

Held-out sentences (``data/heldout.es-en.tsv.gz``) are spoken by voices that training never heard: variants
of espeak-ng that it leaves out, or MBROLA, an engine that it leaves out altogether (the lists are in
:mod:`pipeline.training.engines`; Debian packages ``espeak-ng``, and ``mbrola`` with its voices from
non-free). Each sentence is one clip and is decoded whole, once by the whole model and once by the half-width
sub-model inside it; ``--live`` sends it through a :class:`~pipeline.stream.Stream` instead, gate and partial
hypotheses included. ``--human`` measures recordings of people instead, for which there is no translation to
compare with: a folder with a ``manifest.tsv`` that has the columns ``file``, ``lang`` and ``transcript``.
``--noise`` measures clips in which nobody speaks, and counts those that are answered with nothing.

WER and CER (jiwer; fractions, 0.04 is 4 %) are of texts in lower case, without punctuation (every character
of a Unicode category P; apostrophes join, the others part words) and with single spaces. BLEU and chrF
(sacrebleu's defaults; 0 to 100) are of translations as they are, cased and punctuated. The last line is one
JSON object:
``{"whole": {"es-en": {"wer": ..., "cer": ..., "bleu": ..., "chrf": ...}, "en-es": ...}, "half": ...}``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import jiwer
import numpy as np
import sacrebleu
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from pipeline.audio.files import read_audio
from pipeline.batching import Steps, run_alone
from pipeline.cli import NANO
from pipeline.config import SAMPLE_RATE, AudioFormat, StreamConfig
from pipeline.gemma.greedy import Segment
from pipeline.model import Gemma3n
from pipeline.speech import TAIL, SpeechEnded, SpeechHeard, SpeechStarted
from pipeline.stream import Stream
from pipeline.training.engines import held_out_engine, held_out_voices
from pipeline.training.voices import Voice
from pipeline.translation import TOKEN_SECONDS, SpeechTranslator
from pipeline.wire.events import Event, Transcript, Translation

HELD_OUT = Path(__file__).parent / "data" / "heldout.es-en.tsv.gz"

ENGINES: dict[str, Callable[[str], list[Voice]]] = {"espeak-ng": held_out_voices, "mbrola": held_out_engine}
"""Voices of a language that were held out, by engine."""

DIRECTIONS = (("es", "en"), ("en", "es"))

Waveform = NDArray[np.float32]
Answer = tuple[str, str]
"""Transcript and translation."""

Hear = Callable[[Gemma3n, Waveform, str, str], Answer]
"""A way to have a model hear a waveform, spoken in one language, and translate it into another."""


@dataclass(frozen=True)
class Clip:
    """One recording and what should come of it.

    Args:
        waveform: float32 [samples] at 16 kHz.
        transcript: what is said.
        translation: what it means; None where nobody knows.
    """

    waveform: Waveform
    transcript: str
    translation: str | None = None


def normalise(text: str) -> str:
    """Lower case, no punctuation, single spaces: what WER and CER compare."""
    joined = text.lower().replace("'", "").replace("\u2019", "")
    return " ".join("".join(" " if unicodedata.category(c)[0] == "P" else c for c in joined).split())


def score(clips: Sequence[Clip], answers: Sequence[Answer]) -> dict[str, float]:
    """Compare answers with what should have come.

    Args:
        clips: at least one, with a word in each transcript.
        answers: one for each clip.

    Returns:
        ``wer`` and ``cer``; with translations of all clips also ``bleu`` and ``chrf``.
    """
    said = [normalise(clip.transcript) for clip in clips]
    heard = [normalise(transcript) for transcript, _ in answers]
    scores = {"wer": jiwer.wer(said, heard), "cer": jiwer.cer(said, heard)}
    meant = [clip.translation for clip in clips if clip.translation is not None]
    if len(meant) == len(clips):
        understood = [translation for _, translation in answers]
        scores["bleu"] = sacrebleu.corpus_bleu(understood, [meant]).score
        scores["chrf"] = sacrebleu.corpus_chrf(understood, [meant]).score
    return scores


def hear_whole(model: Gemma3n, waveform: Waveform, source: str, target: str) -> Answer:
    """Encode and decode a clip as one utterance, without gate or partial hypotheses."""
    return answer(model, encode(model, waveform), source, target)


def encode(model: Gemma3n, waveform: Waveform) -> NDArray[np.float32]:
    """Soft tokens of a clip that is one utterance, [n, text_hidden]."""
    stream = model.audio_stream()
    return torch.cat([stream.push(waveform), stream.push(np.zeros(TAIL, np.float32))]).cpu().numpy()


def answer(model: Gemma3n, tokens: NDArray[np.float32], source: str, target: str) -> Answer:
    """Decode an encoded clip."""
    translator = SpeechTranslator(model, StreamConfig(source, (target,), partials=False))
    return run_alone(answering(translator, tokens), model.step)


def answering(translator: SpeechTranslator, tokens: NDArray[np.float32]) -> Steps[Segment, list[int], Answer]:
    """The same, with the work for the decoder left to the caller."""
    end = len(tokens) * TOKEN_SECONDS
    heard = [*(yield from translator.steps(SpeechStarted(audio_time=0.0, time=0.0)))]
    heard += yield from translator.steps(SpeechHeard(audio_time=end, time=end, tokens=tokens))
    heard += yield from translator.steps(SpeechEnded(audio_time=end, time=end))
    return _texts(heard)


def hear_live(model: Gemma3n, waveform: Waveform, source: str, target: str) -> Answer:
    """Send a clip through a stream; the final texts of its utterances, joined."""
    stream = Stream(model, source=source, targets=[target], audio=AudioFormat("pcm_f32le"))
    return _texts([*stream.feed(waveform.astype("<f4").tobytes()), *stream.close()])


def _texts(heard: Sequence[Event]) -> Answer:
    """Final transcripts and translations, each joined."""
    finals: dict[str, list[str]] = {"transcript": [], "translation": []}
    for event in heard:
        if isinstance(event, Transcript | Translation) and event.final and event.stable:
            finals[event.type].append(event.stable)
    return " ".join(finals["transcript"]), " ".join(finals["translation"])


def held_out_pairs() -> list[tuple[str, str]]:
    """Spanish sentences and their English translations."""
    with gzip.open(HELD_OUT, "rt", encoding="utf-8") as lines:
        pairs = [line.rstrip("\n").split("\t") for line in lines]
    return [(spanish, english) for spanish, english in pairs]


def spoken(pairs: Sequence[tuple[str, str]], voices: Sequence[Voice]) -> list[Clip]:
    """Have the first of each pair spoken, each by the next voice in turn.

    Raises:
        OSError: the voices' engine is not installed.
    """
    clips = []
    for index, (said, meant) in enumerate(pairs):
        (speech,) = voices[index % len(voices)].speak([said], Random(index))
        if speech is not None:
            clips.append(Clip(speech.pcm.astype(np.float32) / 32_768, said, meant))
    return clips


def recorded(folder: Path, languages: Sequence[str]) -> dict[str, list[Clip]]:
    """Recordings of people by language, of ``languages`` only.

    Raises:
        AudioError: a file that the manifest names cannot be read.
    """
    clips: dict[str, list[Clip]] = {}
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as manifest:
        for row in csv.DictReader(manifest, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["lang"] in languages:
                clip = Clip(read_audio(folder / row["file"]), row["transcript"])
                clips.setdefault(row["lang"], []).append(clip)
    return clips


def noises(count: int) -> list[Waveform]:
    """Clips of 1 to 8 s without speech: white to brown noise, hum, chords and bursts, at many levels."""
    clips = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        time = np.arange(int(rng.uniform(1, 8) * SAMPLE_RATE)) / SAMPLE_RATE
        spectrum = np.fft.rfft(rng.normal(size=len(time)))
        slope = rng.uniform(0, 1)
        clip = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 1) ** slope, len(time))
        match seed % 4:
            case 1:
                clip = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 6)) + 0.1 * clip
            case 2:
                notes = 220 * 2 ** (rng.integers(0, 24, 3) / 12)
                clip = sum(np.sin(2 * np.pi * note * time) for note in notes) * np.exp(-(time % 1))
            case 3:
                clip = clip * (rng.uniform(size=len(time) // 1_600 + 1) < 0.2).repeat(1_600)[: len(time)]
        level = 10 ** (rng.uniform(-50, -10) / 20)
        clips.append((clip * level / max(float(np.std(clip)), 1e-9)).clip(-1, 1).astype(np.float32))
    return clips


def silent_share(model: Gemma3n, clips: Sequence[Waveform], source: str, target: str, hear: Hear) -> float:
    """Share of ``clips`` of noise in which nothing is heard."""
    return sum(hear(model, clip, source, target) == ("", "") for clip in clips) / len(clips)


def evaluate(model: Gemma3n, clips: Sequence[Clip], source: str, target: str, hear: Hear) -> dict[str, float]:
    """Scores of a model on clips in one language."""
    console = Console(stderr=True)
    progress = track(
        clips,
        f"{source} -> {target}, {len(clips)} clips",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    heard = [hear(model, clip.waveform, source, target) for clip in progress]
    return score(clips, heard)


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Results for people: percentages for WER and CER, points for BLEU and chrF."""
    rows = [f"{'model':<8}{'speech':<10}{'WER %':>8}{'CER %':>8}{'BLEU':>8}{'chrF':>8}"]
    for size, directions in results.items():
        for direction, scores in directions.items():
            cells = [
                f"{scores[name] * factor:8.1f}" if name in scores else f"{'-':>8}"
                for name, factor in (("wer", 100), ("cer", 100), ("bleu", 1), ("chrf", 1))
            ]
            rows.append(f"{size:<8}{direction:<10}{''.join(cells)}")
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=str(NANO), help="default: the bundled model")
    parser.add_argument("--limit", type=int, default=200, help="most clips per direction (default: 200)")
    parser.add_argument("--engine", choices=ENGINES, default="espeak-ng", help="whose voices speak")
    parser.add_argument("--human", type=Path, metavar="DIR", help="measure recordings of people instead")
    parser.add_argument("--noise", action="store_true", help="measure clips of noise instead")
    parser.add_argument("--live", action="store_true", help="as a live stream instead of clip by clip")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    options = parser.parse_args()
    if options.limit < 1:
        parser.error("--limit must be at least 1")

    whole = Gemma3n.from_pretrained(options.model)
    half_widths = [width // 2 for width in whole.config.text.intermediate_size]
    models = {"whole": whole, "half": Gemma3n.from_pretrained(options.model, ffn_widths=half_widths)}

    hear = hear_live if options.live else hear_whole
    if options.noise:
        clips = noises(options.limit)
        shares = {
            size: {f"{a}-{b}": {"silent": silent_share(model, clips, a, b, hear)} for a, b in DIRECTIONS}
            for size, model in models.items()
        }
        print(json.dumps(shares))
        return

    pairs = held_out_pairs()[: options.limit]
    other = dict(DIRECTIONS)
    if options.human is not None:
        clips = {
            source: clips[: options.limit] for source, clips in recorded(options.human, [*other]).items()
        }
    else:
        voices = ENGINES[options.engine]
        clips = {
            "es": spoken(pairs, voices("es")),
            "en": spoken([(english, spanish) for spanish, english in pairs], voices("en")),
        }

    results = {
        size: {
            f"{source}-{other[source]}": evaluate(model, heard, source, other[source], hear)
            for source, heard in clips.items()
        }
        for size, model in models.items()
    }
    if not options.json:
        print(table(results))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
