from __future__ import annotations

import pytest
import torch

from pipeline.gemma.attention import View


def allowed(view: View, queries: int, keys: int) -> torch.Tensor:
    """What a view allows over all keys, [queries, keys]."""
    full = torch.zeros(queries, keys, dtype=torch.bool)
    if view.mask is not None:
        full[:, keys - view.visible :] = view.mask
    elif queries == 1:
        full[:, keys - view.visible :] = True
    else:
        assert view.visible == keys == queries, "without a mask attention is plain causal"
        full = torch.ones(queries, keys, dtype=torch.bool).tril()
    return full


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 9), (3, 9), (9, 9), (4, 4), (5, 5), (2, 120), (1, 120)]
)
def test_queries_see_their_window_and_nothing_after_them(queries, keys, window):
    view = View.of_last(queries, keys, head_dim=4, theta=100.0, window=window, device=torch.device("cpu"))
    expected = torch.tensor(
        [
            [0 <= query - key < (window or keys) for key in range(keys)]
            for query in range(keys - queries, keys)
        ]
    )

    assert torch.equal(allowed(view, queries, keys), expected)


def test_positions_do_not_depend_on_where_a_pass_begins():
    """Rotation belongs to the position in the sequence."""
    options = {"head_dim": 8, "theta": 1e4, "window": None, "device": torch.device("cpu")}
    whole, tail = View.of_last(50, 50, **options), View.of_last(7, 50, **options)

    assert torch.equal(whole.cos[-7:], tail.cos)
    assert torch.equal(whole.sin[-7:], tail.sin)
