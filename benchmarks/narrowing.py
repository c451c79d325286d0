"""The search for MatFormer sub-models that :mod:`benchmarks.matformer` does.

What narrowing one layer alone costs is measured; the widths of a size are those whose costs add up to least,
or the uniform ones if these are better; then layers exchange steps where that helps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.config import TextConfig
from pipeline.gemma.matformer import Widths

Loss = Callable[[Widths], float]

SHARES = (0.25, 0.3125, 0.375, 0.4375, 0.5, 0.75)
"""What the search may use of a layer's width, or else all of it."""

EXCHANGES = 8
"""How many it tries for each size."""


def uniform(config: TextConfig, share: float) -> Widths:
    """The same share of every layer."""
    return tuple(int(width * share) for width in config.intermediate_size)


def search(config: TextConfig, sizes: Sequence[float], loss: Loss) -> list[Widths]:
    """Widths layer by layer for each of some sizes.

    Args:
        config: of the decoder.
        sizes: as in :func:`uniform`, which no result is larger than.
        loss: what to make small.
    """
    whole = config.intermediate_size
    least = loss(whole)
    # What it costs to narrow one layer of the whole model, by its width.
    costs = [
        {int(width * share): loss(_changed(whole, layer, int(width * share))) - least for share in SHARES}
        | {width: 0.0}
        for layer, width in enumerate(whole)
    ]
    found = []
    for size in sizes:
        even = uniform(config, size)
        widths = min(even, _cheapest(costs, sum(even)), key=loss)
        found.append(_exchange(widths, costs, sum(even), loss))
    return found


def _changed(widths: Widths, layer: int, width: int) -> Widths:
    return (*widths[:layer], width, *widths[layer + 1 :])


def _cheapest(costs: Sequence[dict[int, float]], most: int) -> Widths:
    """Widths that are at most so many together and whose costs, added up, are least."""
    best: dict[int, tuple[float, Widths]] = {0: (0.0, ())}
    for choices in costs:
        longer: dict[int, tuple[float, Widths]] = {}
        for size, (cost, widths) in best.items():
            for width, more in choices.items():
                option = (cost + more, (*widths, width))
                if size + width <= most and option < longer.get(size + width, (math.inf, ())):
                    longer[size + width] = option
        best = longer
    return min(best.values())[1]


def _between(costs: dict[int, float], width: int) -> float:
    """Cost of any width, on the line between its neighbours' if it was not measured."""
    known = sorted(costs)
    return float(np.interp(width, known, [costs[at] for at in known]))


def _exchange(widths: Widths, costs: Sequence[dict[int, float]], most: int, loss: Loss) -> Widths:
    """Try the most promising exchanges of a step between two layers, and keep those that help."""
    steps = [sorted(choices) for choices in costs]
    options = []
    for giver, taker in itertools.permutations(range(len(steps)), 2):
        less = [width for width in steps[giver] if width < widths[giver]]
        more = [width for width in steps[taker] if width > widths[taker]]
        if less and more and sum(widths) - widths[giver] + less[-1] - widths[taker] + more[0] <= most:
            now = _between(costs[giver], widths[giver]) + _between(costs[taker], widths[taker])
            change = costs[giver][less[-1]] + costs[taker][more[0]] - now
            options.append((change, {giver: less[-1], taker: more[0]}))
    now, moved = loss(widths), set[int]()
    for _, changes in sorted(options, key=lambda option: option[0])[:EXCHANGES]:
        if moved.isdisjoint(changes):
            option = tuple(changes.get(layer, width) for layer, width in enumerate(widths))
            if (then := loss(option)) < now:
                widths, now = option, then
                moved |= changes.keys()
    return widths
