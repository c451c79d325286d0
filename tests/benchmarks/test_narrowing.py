"""The search for sub-models finds what there is."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from benchmarks import narrowing
from pipeline.config import TextConfig

CONFIG = TextConfig.from_dict(
    {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 1,
        "intermediate_size": 32,
        "layer_types": ["full_attention"] * 4,
        "activation_sparsity_pattern": 0.0,
    }
)


@pytest.mark.parametrize("seed", range(10))
def test_the_search_finds_what_is_best_where_layers_do_not_depend_on_each_other(seed):
    """Each layer loses something of its own, the less of it the wider it is."""
    rng = random.Random(seed)
    whole = CONFIG.intermediate_size
    choices = [int(whole[0] * share) for share in (*narrowing.SHARES, 1.0)]
    needs = [sorted((rng.random() for _ in choices), reverse=True) for _ in whole]

    def loss(widths):
        return sum(np.interp(width, choices, need) for width, need in zip(widths, needs, strict=True))

    sizes = (0.375, 0.6)
    for size, found in zip(sizes, narrowing.search(CONFIG, sizes, loss), strict=True):
        even = narrowing.uniform(CONFIG, size)
        best = min(
            (widths for widths in itertools.product(choices, repeat=4) if sum(widths) <= sum(even)), key=loss
        )
        assert sum(found) <= sum(even)
        assert loss(found) <= min(loss(best), loss(even)) + 1e-9


def test_exchanges_find_what_single_layers_do_not_show():
    """Where two layers help each other, the sum of what each costs alone says nothing."""
    most = (32, 32, 8, 8)

    def loss(widths):
        return 10.0 - 3.0 * (widths[0] >= 16 and widths[1] >= 16) - sum(widths) / 1000 - widths[2] / 1000

    (found,) = narrowing.search(CONFIG, (sum(most) / 128,), loss)
    assert loss(found) <= 7.0
