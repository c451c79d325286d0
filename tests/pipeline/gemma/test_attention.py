from __future__ import annotations

import pytest
import torch

from pipeline.gemma.attention import View


def allowed(view: View, queries: int, keys: int) -> torch.Tensor:
    """What a view of whole sequences allows, [queries, keys]."""
    if view.mask is not None:
        return view.mask == 0
    assert queries == keys, "without a mask attention is plain causal"
    return torch.ones(queries, keys, dtype=torch.bool).tril()


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 9), (3, 9), (9, 9), (4, 4), (5, 5), (2, 120), (1, 120)]
)
def test_queries_see_their_window_and_nothing_after_them(queries, keys, window):
    like = torch.empty(0)
    view = View.of_whole(keys, head_dim=4, theta=100.0, window=window, like=like, last=queries)
    expected = torch.tensor(
        [
            [0 <= query - key < (window or keys) for key in range(keys)]
            for query in range(keys - queries, keys)
        ]
    )

    assert torch.equal(allowed(view, queries, keys), expected)


def test_positions_do_not_depend_on_where_a_pass_begins():
    """Rotation belongs to the position in the sequence."""
    options = {"head_dim": 8, "theta": 1e4, "window": None}
    whole = View.of_whole(50, **options, like=torch.empty(0), last=50)
    tail = View.of_next(
        torch.arange(43, 50),
        torch.tensor([32]),
        32,
        **options,
        dtype=torch.float32,
        apart=None,
        together=None,
    )

    assert torch.equal(whole.cos[-7:], tail.cos)
    assert torch.equal(whole.sin[-7:], tail.sin)


@pytest.mark.parametrize("window", [None, 3])
def test_each_sequence_sees_its_own_past(window):
    """Two sequences, one with a query at 5, one with queries at 18 and 19, whose blocks begin at 16."""
    view = View.of_next(
        torch.tensor([5, 18, 19]),
        torch.tensor([0, 16]),
        16,
        head_dim=4,
        theta=10.0,
        window=window,
        dtype=torch.float32,
        apart=torch.tensor([[0, 0], [1, 2]]),
        together=torch.tensor([0, 2, 3]),
    )
    assert view.mask is not None
    seen = [[[int(key) for key in line.nonzero()] for line in (sequence[0] == 0)] for sequence in view.mask]

    low = 0 if window is None else 3
    assert seen == [[list(range(low, 6))] * 2, [[0, 1, 2], list(range(1 if window else 0, 4))]]
