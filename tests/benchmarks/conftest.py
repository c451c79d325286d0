"""Models for benchmarks that need no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.model import Gemma3n


@pytest.fixture(scope="session")
def babbler(checkpoint: Path) -> Gemma3n:
    """A complete model in miniature with random weights."""
    return Gemma3n.from_pretrained(checkpoint)
