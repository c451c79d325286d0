"""Random decoders: fresh seeds in every run, printed so that a failure can be repeated."""

from __future__ import annotations

import random
import secrets

import pytest
import torch

from pipeline.config import TextConfig
from pipeline.gemma.decoder import Decoder
from tests import reference


@pytest.fixture(params=range(5))
def seed(request: pytest.FixtureRequest) -> int:
    """A seed that was never used before; five of them to each test that asks for it."""
    seed = secrets.randbits(32)
    print(f"seed = {seed}")
    return seed


@pytest.fixture
def rng(seed: int) -> random.Random:
    torch.manual_seed(seed)
    return random.Random(seed)


@pytest.fixture
def decoder(rng: random.Random) -> Decoder:
    """A decoder of a random configuration with random weights."""
    config = TextConfig.from_dict(reference.random_text_config(rng))
    print(config)
    decoder = Decoder(config).eval()
    reference.scramble(decoder)
    return decoder
