"""Beam search: several texts go on beside each other, and the likeliest is what is said.

Texts are compared by their mean log-probability per token, as in Whisper's decoding (Radford et al. 2022,
arXiv:2212.04356). Whether anything is said at all is left to the likeliest first token: of noise, many
unlikely words may come to a higher mean than the end that says nothing. Where a text is drawn to a term, it
goes there as in greedy decoding, and is no less likely for it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass

from pipeline.gemma.bias import Bias
from pipeline.gemma.cache import KVCache
from pipeline.gemma.greedy import Ranking, Segment

LONGEST_PATTERN = 8
"""Most tokens of a pattern whose repetition is not followed: a text that repeats itself is a likely one."""

LEAST_REPEATED = 8
"""Least tokens that such a pattern takes up; a million has six noughts."""

LEAST_REPEATS = 4
"""How often it comes in a row at least."""


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    """One of the texts that go on.

    Args:
        ids: its tokens.
        odds: logarithm of how likely it is.
        cache: the sequence, which ends with it.
        ranking: what may come next.
        bias: where it stands in the terms that it is drawn to.
    """

    ids: tuple[int, ...]
    odds: float
    cache: KVCache
    ranking: Ranking
    bias: Bias | None


def ranking(beams: int, stop_ids: Collection[int]) -> Ranking:
    """To be filled with as many ids as a search may need behind one text."""
    return Ranking(beams + len(stop_ids))


def search(
    cache: KVCache,
    first: Ranking,
    max_new_tokens: int,
    stop_ids: Collection[int],
    beams: int,
    *,
    ffn_widths: tuple[int, ...] | None = None,
    bias: Bias | None = None,
) -> Generator[tuple[Segment, ...], list[list[int]], tuple[list[int], KVCache]]:
    """Continue a sequence by the likeliest text that is found.

    Args:
        cache: the sequence so far; it stays as it is.
        first: what may come next, from :func:`ranking`.
        max_new_tokens: how many to generate at most.
        stop_ids: ids that end the text; they are not in it.
        beams: how many texts go on beside each other.
        ffn_widths: of the MatFormer sub-model; None for the whole model.
        bias: where the text stands in terms that it is to be drawn to.

    Yields:
        A token for each of these texts.

    Returns:
        The text, and a sequence that ends with it.
    """
    going = [_Text((), 0.0, cache, first, bias)]
    if not max_new_tokens or first.likeliest[0][0] in stop_ids:
        return [], cache
    ended: list[tuple[float, _Text]] = []
    for length in range(1, max_new_tokens + 1):
        candidates = sorted(
            ((text.odds + odds, text, token) for text in going for token, odds in text.ranking.likeliest),
            key=lambda candidate: -candidate[0],
        )
        chosen: list[tuple[float, _Text, int]] = []
        for rank, (odds, text, token) in enumerate(candidates):
            if token in stop_ids:
                if text.ids and rank < beams:
                    ended.append((odds / length, text))
            elif not _repeats([*text.ids, token]):
                chosen.append((odds, text, token))
            if len(chosen) == beams:
                break
        best = max((mean for mean, _ in ended), default=float("-inf"))
        if not chosen or len(ended) >= beams or best > chosen[0][0] / length:
            break
        going = [
            _Text(
                (*text.ids, token),
                odds,
                text.cache.fork(),
                ranking(beams, stop_ids),
                text.bias and text.bias.behind([token]),
            )
            for odds, text, token in chosen
        ]
        yield tuple(
            Segment(text.cache, text.ids[-1:], 1, None, ffn_widths, bias=text.bias, ranking=text.ranking)
            for text in going
        )
    if ended:
        _, likeliest = max(ended, key=lambda end: end[0])
    else:
        likeliest = going[0]
    return [*likeliest.ids], likeliest.cache


def _repeats(ids: Sequence[int]) -> bool:
    """Whether a text ends in a rut."""
    for length in range(1, LONGEST_PATTERN + 1):
        repeated = max(LEAST_REPEATED, LEAST_REPEATS * length)
        tail = ids[-repeated:]
        if len(tail) == repeated and all(a == b for a, b in zip(tail, tail[length:], strict=False)):
            return True
    return False
