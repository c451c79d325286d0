"""How well a model hears and translates sentences that it was not trained on.

    python -m benchmarks.quality [--model DIR] [--limit 200] [--engine espeak-ng|mbrola] [--live] [--json]
    python -m benchmarks.quality --human DIR [--model DIR] [--limit 200] [--live] [--json]
    python -m benchmarks.quality --beams 1 [any of the above and below]
    python -m benchmarks.quality --condition noise-10db opus ... [any of the above]
    python -m benchmarks.quality --noise [--model DIR] [--limit 200] [--live] [--json]

The model is measured in every direction between English and the other languages that it knows, or in those
that ``--direction es-en ...`` names. Held-out sentences (``data/heldout.XX-en.tsv.gz``) are spoken by voices
that training never heard: variants of espeak-ng that it leaves out, or MBROLA, an engine that it leaves out
altogether (the lists are in :mod:`pipeline.training.engines`; Debian packages ``espeak-ng``, and ``mbrola``
with its voices from non-free). Each sentence is one clip and is decoded whole, once by the whole model and
once by the half-width sub-model inside it; ``--live`` sends it through a :class:`~pipeline.stream.Stream`
instead, gate and partial hypotheses included. ``--beams 1`` decodes greedily what otherwise is searched for
with as many beams as a server on a CPU has. ``--human`` measures recordings of people instead: a folder
with a ``manifest.tsv`` that has the columns ``file``, ``lang`` and ``transcript``, and ``translation``
(``en: ...``) where there is one. ``--condition`` puts noise, rooms, telephones and codecs between speaker
and model, or changes pace and pitch (:mod:`benchmarks.conditions`); ``all`` are all of them. ``--noise``
measures clips in which nobody speaks, and counts those that are answered with nothing.

WER and CER (jiwer; fractions, 0.04 is 4 %) are of texts in lower case, without punctuation (every character
of a Unicode category P; apostrophes join, the others part words) and with single spaces. BLEU and chrF
(sacrebleu's defaults; 0 to 100) are of translations as they are, cased and punctuated, of the clips that
have one. The ranges are 95 % confidence intervals (:mod:`benchmarks.intervals`). The last line is one JSON
object: ``{"whole": {"es-en": {"clips": ..., "wer": ..., "wer_low": ..., "wer_high": ..., "cer": ..., "bleu":
..., "chrf": ...}, "en-es": ...}, "half": ...}``, and with ``--condition`` such an object by the name of
each.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from random import Random

import jiwer
import numpy as np
import sacrebleu
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks import intervals
from benchmarks.conditions import CONDITIONS
from pipeline.audio.files import read_audio
from pipeline.batching import Steps, run_alone
from pipeline.cli import NANO
from pipeline.config import BEAMS, SAMPLE_RATE, AudioFormat, StreamConfig
from pipeline.gemma.greedy import Segment
from pipeline.model import Gemma3n
from pipeline.options import add_beams
from pipeline.speech import TAIL, SpeechEnded, SpeechHeard, SpeechStarted
from pipeline.stream import Stream
from pipeline.training.engines import held_out_engine, held_out_voices
from pipeline.training.text import ENGLISH
from pipeline.training.voices import Voice
from pipeline.translation import TOKEN_SECONDS, SpeechTranslator
from pipeline.wire.events import Event, Transcript, Translation

DATA = Path(__file__).parent / "data"

ENGINES: dict[str, Callable[[str], list[Voice]]] = {"espeak-ng": held_out_voices, "mbrola": held_out_engine}
"""Voices of a language that were held out, by engine."""

Direction = tuple[str, str]
"""Languages of the speech and of its translation."""

Waveform = NDArray[np.float32]
Answer = tuple[str, str]
"""Transcript and translation."""

Hear = Callable[[Gemma3n, Waveform, str, str], Answer]
"""A way to have a model hear a waveform, spoken in one language, and translate it into another."""


def directions(languages: Sequence[str]) -> list[Direction]:
    """Those between English and other languages of a model that there are held-out sentences of."""
    others = [code for code in languages if code != ENGLISH and _held_out(code).exists()]
    return [pair for code in others for pair in ((code, ENGLISH), (ENGLISH, code))]


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
        ``wer`` and ``cer``; of the clips with a translation, if there are any, also ``bleu`` and ``chrf``.
    """
    said, heard = _words(clips, answers)
    scores = {"wer": jiwer.wer(said, heard), "cer": jiwer.cer(said, heard)}
    understood, meant = _translations(clips, answers)
    if meant:
        scores["bleu"] = sacrebleu.corpus_bleu(understood, [meant]).score
        scores["chrf"] = sacrebleu.corpus_chrf(understood, [meant]).score
    return scores


def confidence(clips: Sequence[Clip], answers: Sequence[Answer]) -> dict[str, float]:
    """Where the scores of many more such clips would lie: ``wer_low``, ``wer_high`` and so on."""
    said, heard = _words(clips, answers)
    ranges = {
        "wer": intervals.of_errors(said, heard),
        "cer": intervals.of_errors(said, heard, characters=True),
    }
    understood, meant = _translations(clips, answers)
    if meant:
        ranges["bleu"] = intervals.of_bleu(understood, meant)
    return {
        f"{name}_{end}": value
        for name, range_ in ranges.items()
        for end, value in zip(("low", "high"), range_, strict=True)
    }


def _words(clips: Sequence[Clip], answers: Sequence[Answer]) -> tuple[list[str], list[str]]:
    """What was said and what was heard, as it is compared."""
    return [normalise(clip.transcript) for clip in clips], [normalise(heard) for heard, _ in answers]


def _translations(clips: Sequence[Clip], answers: Sequence[Answer]) -> tuple[list[str], list[str]]:
    """Translations, and what they should be, where that is known."""
    known = [
        (understood, clip.translation)
        for clip, (_, understood) in zip(clips, answers, strict=True)
        if clip.translation is not None
    ]
    return [understood for understood, _ in known], [meant for _, meant in known]


def hear_whole(model: Gemma3n, waveform: Waveform, source: str, target: str, *, beams: int = BEAMS) -> Answer:
    """Encode and decode a clip as one utterance, without gate or partial hypotheses."""
    return answer(model, encode(model, waveform), source, target, beams=beams)


def encode(model: Gemma3n, waveform: Waveform) -> NDArray[np.float32]:
    """Soft tokens of a clip that is one utterance, [n, text_hidden]."""
    stream = model.audio_stream()
    return torch.cat([stream.push(waveform), stream.push(np.zeros(TAIL, np.float32))]).cpu().numpy()


def answer(
    model: Gemma3n, tokens: NDArray[np.float32], source: str, target: str, *, beams: int = BEAMS
) -> Answer:
    """Decode an encoded clip."""
    translator = SpeechTranslator(model, StreamConfig(source, (target,), partials=False, beams=beams))
    return run_alone(answering(translator, tokens), model.step)


def answering(translator: SpeechTranslator, tokens: NDArray[np.float32]) -> Steps[Segment, list[int], Answer]:
    """The same, with the work for the decoder left to the caller."""
    end = len(tokens) * TOKEN_SECONDS
    heard = [*(yield from translator.steps(SpeechStarted(audio_time=0.0, time=0.0)))]
    heard += yield from translator.steps(SpeechHeard(audio_time=end, time=end, tokens=tokens))
    heard += yield from translator.steps(SpeechEnded(audio_time=end, time=end))
    return _texts(heard)


def hear_live(model: Gemma3n, waveform: Waveform, source: str, target: str, *, beams: int = BEAMS) -> Answer:
    """Send a clip through a stream; the final texts of its utterances, joined."""
    config = StreamConfig(beams=beams)
    stream = Stream(model, source=source, targets=[target], audio=AudioFormat("pcm_f32le"), config=config)
    return _texts([*stream.feed(waveform.astype("<f4").tobytes()), *stream.close()])


def _texts(heard: Sequence[Event]) -> Answer:
    """Final transcripts and translations, each joined."""
    finals: dict[str, list[str]] = {"transcript": [], "translation": []}
    for event in heard:
        if isinstance(event, Transcript | Translation) and event.final and event.stable:
            finals[event.type].append(event.stable)
    return " ".join(finals["transcript"]), " ".join(finals["translation"])


def held_out_pairs(language: str = "es") -> list[tuple[str, str]]:
    """Sentences and their English translations."""
    with gzip.open(_held_out(language), "rt", encoding="utf-8") as lines:
        pairs = [line.rstrip("\n").split("\t") for line in lines]
    return [(sentence, english) for sentence, english in pairs]


def _held_out(language: str) -> Path:
    return DATA / f"heldout.{language}-en.tsv.gz"


def sentences(direction: Direction, limit: int) -> list[tuple[str, str]]:
    """What is said in one direction and what it means, at most ``limit`` of them."""
    source, target = direction
    if target == ENGLISH:
        return held_out_pairs(source)[:limit]
    return [(english, sentence) for sentence, english in held_out_pairs(target)[:limit]]


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


def recorded(folder: Path, wanted: Sequence[Direction]) -> dict[Direction, list[Clip]]:
    """Recordings of people by direction, those that there are any for.

    Raises:
        AudioError: a file that the manifest names cannot be read.
    """
    clips: dict[Direction, list[Clip]] = {}
    with (folder / "manifest.tsv").open(encoding="utf-8", newline="") as manifest:
        for row in csv.DictReader(manifest, delimiter="\t", quoting=csv.QUOTE_NONE):
            known, _, meant = (row.get("translation") or "").partition(": ")
            targets = [target for source, target in wanted if source == row["lang"]]
            waveform = read_audio(folder / row["file"]) if targets else None
            for target in targets:
                clip = Clip(waveform, row["transcript"], meant if known == target else None)
                clips.setdefault((row["lang"], target), []).append(clip)
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


def under(clips: Sequence[Clip], condition: str) -> list[Clip]:
    """What is left of clips under one of :data:`benchmarks.conditions.CONDITIONS`."""
    change = CONDITIONS[condition]
    return [replace(clip, waveform=change(clip.waveform, index)) for index, clip in enumerate(clips)]


def evaluate(model: Gemma3n, clips: Sequence[Clip], source: str, target: str, hear: Hear) -> dict[str, float]:
    """Scores of a model on clips of one direction, how sure they are, and the number of clips."""
    console = Console(stderr=True)
    progress = track(
        clips,
        f"{source} -> {target}, {len(clips)} clips",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    heard = [hear(model, clip.waveform, source, target) for clip in progress]
    return {"clips": len(clips), **score(clips, heard), **confidence(clips, heard)}


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Results for people: percentages for WER and CER, points for BLEU and chrF, with what they may be."""
    rows = [f"{'model':<8}{'speech':<10}{'WER %':>19}{'CER %':>19}{'BLEU':>19}{'chrF':>19}"]
    for size, by_direction in results.items():
        for direction, scores in by_direction.items():
            cells = [
                _cell(scores, name, factor)
                for name, factor in (("wer", 100), ("cer", 100), ("bleu", 1), ("chrf", 1))
            ]
            rows.append(f"{size:<8}{direction:<10}{''.join(cells)}")
    return "\n".join(rows)


def _cell(scores: dict[str, float], name: str, factor: float) -> str:
    if name not in scores:
        return f"{'-':>19}"
    figure = f"{scores[name] * factor:.1f}"
    if f"{name}_low" in scores:
        figure += " ({:.1f}-{:.1f})".format(*(scores[f"{name}_{end}"] * factor for end in ("low", "high")))
    return f"{figure:>19}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=str(NANO), help="default: the bundled model")
    parser.add_argument("--int8", action="store_true", help="with weights in int8")
    parser.add_argument("--limit", type=int, default=200, help="most clips per direction (default: 200)")
    parser.add_argument("--direction", nargs="+", metavar="XX-XX", help="default: all that the model knows")
    parser.add_argument("--engine", choices=ENGINES, default="espeak-ng", help="whose voices speak")
    parser.add_argument("--human", type=Path, metavar="DIR", help="measure recordings of people instead")
    parser.add_argument(
        "--condition", nargs="+", choices=[*CONDITIONS, "all"], help="what speech goes through"
    )
    parser.add_argument("--noise", action="store_true", help="measure clips of noise instead")
    parser.add_argument("--live", action="store_true", help="as a live stream instead of clip by clip")
    add_beams(parser, of_cpu=True)
    parser.add_argument("--json", action="store_true", help="print the last line only")
    options = parser.parse_args()
    if options.limit < 1:
        parser.error("--limit must be at least 1")

    dtype = torch.int8 if options.int8 else torch.float32
    whole = Gemma3n.from_pretrained(options.model, dtype=dtype)
    known = {f"{source}-{target}": (source, target) for source, target in directions(whole.languages)}
    unknown = set(options.direction or []) - known.keys()
    if unknown:
        parser.error(f"no {', '.join(sorted(unknown))}; there are sentences for {', '.join(known)}")
    wanted = [known[name] for name in options.direction or known]
    half_widths = [width // 2 for width in whole.config.text.intermediate_size]
    models = {
        "whole": whole,
        "half": Gemma3n.from_pretrained(options.model, dtype=dtype, ffn_widths=half_widths),
    }

    hear = partial(hear_live if options.live else hear_whole, beams=options.beams)
    if options.noise:
        clips = noises(options.limit)
        shares = {
            size: {f"{a}-{b}": {"silent": silent_share(model, clips, a, b, hear)} for a, b in wanted}
            for size, model in models.items()
        }
        print(json.dumps(shares))
        return

    if options.human is not None:
        speech = {
            direction: some[: options.limit] for direction, some in recorded(options.human, wanted).items()
        }
    else:
        voices = ENGINES[options.engine]
        speech = {
            direction: spoken(sentences(direction, options.limit), voices(direction[0]))
            for direction in wanted
        }

    names = options.condition or ["clean"]
    by_condition: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for name in CONDITIONS if "all" in names else names:
        results: dict[str, dict[str, dict[str, float]]] = {size: {} for size in models}
        for (size, model), ((source, target), clips) in product(models.items(), speech.items()):
            changed = under(clips, name)
            results[size][f"{source}-{target}"] = evaluate(model, changed, source, target, hear)
        by_condition[name] = results
        if not options.json:
            print(*([name] if options.condition else []), table(results), sep="\n")
    print(json.dumps(by_condition if options.condition else by_condition["clean"]))


if __name__ == "__main__":
    main()
