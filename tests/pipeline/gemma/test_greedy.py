from __future__ import annotations

import pytest
import torch

from pipeline.batching import run_alone
from pipeline.config import TextConfig
from pipeline.gemma.cache import KVCache, KVPool
from pipeline.gemma.greedy import Segment, greedy

CONFIG = TextConfig.from_dict(
    {"num_hidden_layers": 1, "num_kv_shared_layers": 0, "layer_types": ["full_attention"], "head_dim": 2}
)
SOFT = 99
PIECE = 20


class Counting:
    """A model that always says the successor of the last token; it notes how many tokens it was given."""

    def __init__(self):
        self.passes = []

    def __call__(self, segments):
        for segment in segments:
            segment.cache.reserve(len(segment.token_ids))
            segment.cache.advance(len(segment.token_ids))
            self.passes.append(len(segment.token_ids))
        return [
            [token + 1 for token in segment.token_ids[len(segment.token_ids) - segment.keep :]]
            for segment in segments
        ]


@pytest.fixture(name="cache")
def _cache() -> KVCache:
    return KVCache(KVPool(CONFIG, torch.float32, torch.device("cpu")), 100)


@pytest.mark.parametrize(
    ("draft", "passes"),
    [
        ([], [2, 1, 1, 1]),
        ([8, 9], [4, 1]),
        ([8, 9, 10, 11], [6]),
        ([8, 5, 10], [5, 1, 1]),
        ([3], [3, 1, 1, 1]),
    ],
)
def test_a_draft_spares_passes_and_changes_nothing(cache, draft, passes):
    model = Counting()

    assert run_alone(greedy(cache, [1, 7], 20, {11}, draft), model) == [8, 9, 10]
    assert model.passes == passes
    assert cache.length == 5


def test_no_more_than_allowed_is_generated(cache):
    assert run_alone(greedy(cache, [7], 3, (), [8, 9, 10, 11, 12]), Counting()) == [8, 9, 10]
    assert cache.length == 4


def test_a_token_to_continue_is_needed(cache):
    with pytest.raises(ValueError, match="at least one token"):
        run_alone(greedy(cache, [], 3, ()), Counting())


@pytest.mark.parametrize(
    ("count", "keep"), [(5, 1), (2 * PIECE + 1, 0), (2 * PIECE, 1), (3 * PIECE, PIECE + 9)]
)
def test_pieces_are_the_whole(cache, count, keep):
    ids = [SOFT if at % 3 else at % 50 for at in range(count)]
    audio = torch.arange(ids.count(SOFT))[:, None]
    pieces = Segment(cache, ids, keep, audio).pieces(SOFT, PIECE)

    assert [token for piece in pieces for token in piece.token_ids] == ids
    assert torch.equal(torch.cat([piece.audio for piece in pieces]), audio)
    assert all(piece.token_ids.count(SOFT) == len(piece.audio) for piece in pieces)
    assert [piece.keep for piece in pieces] == [0] * (len(pieces) - 1) + [keep]
    assert all(len(piece.token_ids) - piece.keep <= PIECE for piece in pieces)
