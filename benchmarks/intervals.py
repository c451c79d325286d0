"""95 % confidence intervals of WER, CER and BLEU: the same clips drawn again and again, with replacement.

Sets of some dozens of recordings say little about the next one, and these intervals say how little
(bootstrap; Bisani and Ney 2004 for WER, Koehn 2004 for BLEU). Clips are drawn as wholes, for errors come
together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jiwer
import numpy as np
import sacrebleu
from numpy.typing import NDArray

RESAMPLES = 1000

Counts = NDArray[np.float64]


def of_errors(said: Sequence[str], heard: Sequence[str], *, characters: bool = False) -> tuple[float, float]:
    """Interval of the WER, or of the CER.

    Args:
        said: what was said in each clip.
        heard: what was heard in it.
        characters: whether to count characters instead of words.
    """
    compare = jiwer.process_characters if characters else jiwer.process_words
    rows = []
    for reference, hypothesis in zip(said, heard, strict=True):
        found = compare(reference, hypothesis)
        missed = found.substitutions + found.deletions
        rows.append((missed + found.insertions, found.hits + missed))
    return _interval(np.array(rows, np.float64), lambda total: float(total[0] / total[1]))


def of_bleu(understood: Sequence[str], meant: Sequence[str]) -> tuple[float, float]:
    """Interval of BLEU.

    Args:
        understood: the translation of each clip.
        meant: what it should have been.
    """
    metric = sacrebleu.BLEU()
    rows = []
    for hypothesis, reference in zip(understood, meant, strict=True):
        one = metric.corpus_score([hypothesis], [[reference]])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])
    return _interval(np.array(rows, np.float64), _bleu)


def _bleu(total: Counts) -> float:
    counts, totals, lengths = total[:4], total[4:8], total[8:]
    score = sacrebleu.BLEU.compute_bleu(
        counts.astype(int).tolist(), totals.astype(int).tolist(), int(lengths[0]), int(lengths[1]), "exp"
    )
    return float(score.score)


def _interval(rows: Counts, figure: Callable[[Counts], float]) -> tuple[float, float]:
    """What ``figure`` makes of the sum of as many rows as there are, each of them drawn from all."""
    drawn = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
    figures = [figure(rows[some].sum(0)) for some in drawn]
    low, high = np.percentile(figures, [2.5, 97.5])
    return float(low), float(high)
