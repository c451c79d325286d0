"""What a glossary does for the terms in it, and to everything else; and what a context does.

    python -m benchmarks.glossary [--model DIR] [--limit 40] [--sentences FILE] [--json]

Held-out sentences of Tatoeba (``data/heldout.es-en.tsv.gz``, or pairs of Spanish and English from another
such file), spoken by voices of espeak-ng that training never heard, that have a term of one of three kinds:

``names``  a name that stands in the sentence and in its translation alike, given as a string, in at most
           three sentences each;
``words``  a long word that stands in one sentence alone, given for the language that is spoken;
``pairs``  a word whose usual translation is in the reference, and for which another one (:data:`PAIRS`) is
           given, which replaces it in the reference.

Each is heard without a glossary, and with one that has the terms of all sentences of its kind; with a model
that was made for a context, names and words are told in one, too, as many as it takes. Recall is the share
of the terms in the texts that they belong into, with their capitals or the sentence's; inserted are terms
that are found in texts that they do not belong into, nearly always those of other sentences. WER and BLEU are
those of :mod:`benchmarks.quality`. The bonuses in :mod:`pipeline.gemma.bias` were chosen on other sentences,
those of a file that ``--sentences`` named. The last line is one JSON object: ``{"names": {"es-en": {"clips":
..., "terms": ..., "without": {"recall_transcript": ..., "recall_translation": ..., "inserted": ..., "wer":
..., "bleu": ...}, "with": ..., "context": ...}, "en-es": ...}, "words": ..., "pairs": ...}``; without a
recall where no text should have a term.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import DATA, Answer, Clip, Direction, answering, encode, score, spoken
from pipeline.batching import run_alone
from pipeline.cli import NANO
from pipeline.config import BEAMS, CONTEXT_CHARACTERS, ContextConfig, StreamConfig
from pipeline.glossary import Entry, says
from pipeline.model import Gemma3n
from pipeline.training.engines import held_out_voices
from pipeline.translation import SpeechTranslator

PAIRS = {
    ("es", "en"): {
        "coche": ("car", "automobile"),
        "casa": ("house", "residence"),
        "perro": ("dog", "hound"),
        "gato": ("cat", "kitty"),
        "dinero": ("money", "cash"),
        "niños": ("children", "kids"),
        "película": ("movie", "film"),
        "trabajo": ("work", "labor"),
        "libro": ("book", "volume"),
        "calle": ("street", "road"),
        "habitación": ("room", "chamber"),
        "enfermo": ("sick", "ill"),
        "gente": ("people", "folks"),
        "zapatos": ("shoes", "boots"),
        "hombre": ("man", "guy"),
        "noche": ("night", "evening"),
        "mujer": ("woman", "lady"),
        "niño": ("boy", "kid"),
        "chica": ("girl", "lass"),
        "amigo": ("friend", "buddy"),
        "problema": ("problem", "issue"),
        "difícil": ("difficult", "tough"),
        "siempre": ("always", "constantly"),
        "feliz": ("happy", "glad"),
        "médico": ("doctor", "physician"),
        "ciudad": ("city", "town"),
        "grande": ("big", "huge"),
    },
    ("en", "es"): {
        "car": ("coche", "automóvil"),
        "house": ("casa", "vivienda"),
        "dog": ("perro", "can"),
        "money": ("dinero", "plata"),
        "children": ("niños", "chicos"),
        "movie": ("película", "cinta"),
        "room": ("habitación", "pieza"),
        "sick": ("enfermo", "malo"),
        "street": ("calle", "avenida"),
        "husband": ("marido", "esposo"),
        "wife": ("mujer", "esposa"),
        "beautiful": ("hermosa", "bella"),
        "always": ("siempre", "constantemente"),
        "bed": ("cama", "lecho"),
        "doctor": ("médico", "doctor"),
        "difficult": ("difícil", "complicado"),
        "problem": ("problema", "asunto"),
        "boy": ("niño", "chico"),
        "girl": ("chica", "muchacha"),
        "man": ("hombre", "señor"),
        "friend": ("amigo", "compañero"),
        "work": ("trabajo", "empleo"),
        "happy": ("feliz", "contento"),
        "big": ("grande", "enorme"),
        "city": ("ciudad", "urbe"),
        "teacher": ("profesor", "maestro"),
        "book": ("libro", "tomo"),
    },
}
"""Words by direction, each with its usual translation and another one."""

LEAST_LETTERS = 7
"""Of a word."""

MOST_SENTENCES = 3
"""With the same name."""


@dataclass(frozen=True)
class Case:
    """A sentence with a term in it.

    Args:
        said: the sentence.
        meant: its translation.
        entry: for the glossary.
    """

    said: str
    meant: str
    entry: Entry


Kind = Callable[[Sequence[tuple[str, str]], Direction], list[Case]]
"""Finds cases among sentences and their translations."""


def names(pairs: Sequence[tuple[str, str]], direction: Direction) -> list[Case]:
    """Sentences with a name that stands in the translation too."""
    cases, found = [], Counter[str]()
    for said, meant in pairs:
        inside = [name for name in re.findall(r"\b[A-Z][a-z]\w{2,}", said) if says(meant, name)]
        if inside and found[inside[0]] < MOST_SENTENCES:
            found[inside[0]] += 1
            cases.append(Case(said, meant, inside[0]))
    return cases


def words(pairs: Sequence[tuple[str, str]], direction: Direction) -> list[Case]:
    """Sentences with a long word that stands in no other."""
    counts = Counter(word for said, _ in pairs for word in set(re.findall(r"\w+", said.lower())))
    cases = []
    for said, meant in pairs:
        rare = [word for word in re.findall(r"\w+", said) if len(word) >= LEAST_LETTERS and counts[word] == 1]
        if rare:
            cases.append(Case(said, meant, {direction[0]: max(rare, key=len)}))
    return cases


def renderings(pairs: Sequence[tuple[str, str]], direction: Direction) -> list[Case]:
    """Sentences with a word that is to be translated in another way than in the reference."""
    source, target = direction
    cases = []
    for said, meant in pairs:
        for word, (usual, other) in PAIRS[direction].items():
            if says(said, word) and says(meant, usual):
                rendered = re.sub(rf"\b{usual}\b", other, meant, flags=re.IGNORECASE)
                cases.append(Case(said, rendered, {source: word, target: other}))
                break
    return cases


KINDS: dict[str, Kind] = {"names": names, "words": words, "pairs": renderings}


def entries_of(cases: Sequence[Case]) -> list[Entry]:
    """A glossary of all cases."""
    return [json.loads(entry) for entry in dict.fromkeys(json.dumps(case.entry) for case in cases)]


def answers(
    model: Gemma3n,
    speech: Sequence[NDArray[np.float32]],
    direction: Direction,
    glossary: Sequence[Entry],
    context: str = "",
) -> list[Answer]:
    """Transcripts and translations of encoded clips."""
    config = StreamConfig(
        direction[0],
        (direction[1],),
        partials=False,
        context=ContextConfig(context),
        glossary=tuple(glossary),
        beams=BEAMS,
    )
    return [run_alone(answering(SpeechTranslator(model, config), tokens), model.step) for tokens in speech]


def has(text: str, term: str) -> bool:
    """Whether a term is spelled in a text as it is given, but for the capital that begins a sentence."""
    return says(text, term) and (term in text or term[0].upper() + term[1:] in text)


def count(cases: Sequence[Case], heard: Sequence[Answer], direction: Direction) -> dict[str, float]:
    """Which terms are found where they belong, and how many where they do not.

    Returns:
        ``recall_transcript`` and ``recall_translation``, where any should be found, and ``inserted``.
    """
    scores: dict[str, float] = {}
    inserted = 0
    entries = entries_of(cases)
    for place, language in enumerate(direction):
        terms = [entry if isinstance(entry, str) else entry.get(language) for entry in entries]
        belongs = found = 0
        for case, texts in zip(cases, heard, strict=True):
            truth = (case.said, case.meant)[place]
            for term in filter(None, terms):
                if says(truth, term):
                    belongs += 1
                    found += has(texts[place], term)
                else:
                    inserted += says(texts[place], term)
        if belongs:
            scores[("recall_transcript", "recall_translation")[place]] = found / belongs
    return {**scores, "inserted": inserted}


def told(entries: Sequence[Entry]) -> str:
    """The terms of a glossary as a context, as many as there is room for; of pairs nothing."""
    terms = [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]
    if any(len(entry) > 1 for entry in entries if not isinstance(entry, str)):
        return ""
    text = ""
    for term in terms:
        longer = f"{text}, {term}" if text else term
        if len(longer) > CONTEXT_CHARACTERS:
            break
        text = longer
    return text


def evaluate(
    model: Gemma3n, cases: Sequence[Case], clips: Sequence[Clip], direction: Direction
) -> dict[str, Any]:
    """What comes of the clips of some cases without and with their glossary, and with a context of it."""
    speech = [encode(model, clip.waveform) for clip in clips]
    entries = entries_of(cases)
    results: dict[str, Any] = {"clips": len(clips), "terms": len(entries)}
    given: list[tuple[str, Sequence[Entry], str]] = [("without", (), ""), ("with", entries, "")]
    if model.prompt.takes_context and (context := told(entries)):
        given.append(("context", (), context))
    for name, glossary, context in given:
        heard = answers(model, speech, direction, glossary, context)
        scores = score(clips, heard)
        results[name] = count(cases, heard, direction) | {key: scores[key] for key in ("wer", "bleu")}
    return results


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Results for people, in percent but for insertions and BLEU."""
    heads = ("clips", "terms", "glossary", "heard", "translated", "inserted", "WER", "BLEU")
    rows = ["".join([f"{'kind':<8}{'speech':<8}", *(f"{head:>11}" for head in heads)])]
    for kind, by_direction in results.items():
        for direction, result in by_direction.items():
            for name in filter(result.__contains__, ("without", "with", "context")):
                scores = result[name]
                shares = [scores.get(f"recall_{text}") for text in ("transcript", "translation")]
                cells = [
                    *(result["clips"], result["terms"], name),
                    *("-" if share is None else f"{share:.0%}" for share in shares),
                    *(scores["inserted"], f"{scores['wer']:.1%}", f"{scores['bleu']:.1f}"),
                ]
                rows.append("".join([f"{kind:<8}{direction:<8}", *(f"{cell:>11}" for cell in cells)]))
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=str(NANO), help="default: the bundled model")
    parser.add_argument("--limit", type=int, default=40, help="most clips of a kind and direction (40)")
    parser.add_argument("--sentences", type=Path, default=DATA / "heldout.es-en.tsv.gz", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    options = parser.parse_args()
    if options.limit < 1:
        parser.error("--limit must be at least 1")

    model = Gemma3n.from_pretrained(options.model)
    with gzip.open(options.sentences, "rt", encoding="utf-8") as lines:
        columns = [line.rstrip("\n").split("\t") for line in lines]
    results: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
    for kind, direction in product(KINDS, PAIRS):
        pairs = [(spanish, english)[:: 1 if direction[0] == "es" else -1] for spanish, english, *_ in columns]
        cases = KINDS[kind](pairs, direction)[: options.limit]
        clips = spoken([(case.said, case.meant) for case in cases], held_out_voices(direction[0]))
        results[kind]["-".join(direction)] = evaluate(model, cases, clips, direction)
    if not options.json:
        print(table(results))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
