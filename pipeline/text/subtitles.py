"""Finished text as subtitle files: :func:`~pipeline.text.cues.pop_on` cues in the formats of players."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.text.cues import Cue, CueConfig, pop_on
from pipeline.text.formats import to_subrip, to_webvtt

__all__ = ["Cue", "CueConfig", "srt", "vtt"]


def vtt(said: Iterable[Cue], config: CueConfig | None = None) -> str:
    """A WebVTT file of texts of any length, given with the time when they were said."""
    return to_webvtt(pop_on(said, config))


def srt(said: Iterable[Cue], config: CueConfig | None = None) -> str:
    """The same as a SubRip file."""
    return to_subrip(pop_on(said, config))
