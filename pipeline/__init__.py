"""What happens to one stream: audio bytes in, transcript and translation events out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.model import Gemma3n
    from pipeline.recording import Translation, Utterance, translate
    from pipeline.stream import Stream

__all__ = ["Gemma3n", "Stream", "Translation", "Utterance", "translate"]

_HOME = {
    "Gemma3n": "pipeline.model",
    "Stream": "pipeline.stream",
    "Translation": "pipeline.recording",
    "Utterance": "pipeline.recording",
    "translate": "pipeline.recording",
}


def __getattr__(name: str) -> Any:
    # On demand: the command answers questions about its usage without loading torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
