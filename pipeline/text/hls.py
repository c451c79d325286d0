"""Live subtitles for HTTP Live Streaming (RFC 8216): a media playlist and its segments of WebVTT.

Segment ``n`` holds the cues from ``n * seconds`` to ``(n + 1) * seconds`` on the timeline of the cues. A
segment is listed once no more cues can come into its time, and never changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.text.cues import Cue
from pipeline.text.formats import to_webvtt

_PTS_RANGE = 1 << 33
"""MPEG-2 timestamps have 33 bits."""


@dataclass(frozen=True, kw_only=True)
class HlsConfig:
    """How subtitles are segmented.

    Args:
        seconds: length of a segment.
        target: ``EXT-X-TARGETDURATION`` in seconds. Live, it has to be that of the video's playlists (section
            6.2.4).
        window: how many segments a live playlist lists; all that there ever were when None.
        uri: of a segment, relative to the playlist, with ``{number}`` in it.
        mpegts: MPEG-2 timestamp (90,000 a second) of the video at time 0 of the cues; may have wrapped.

    Raises:
        ValueError: a segment is longer than the target duration, or the window shorter than three of them.
    """

    seconds: float = 6.0
    target: int = 6
    window: int | None = 5
    uri: str = "{number}.vtt"
    mpegts: int = 0

    def __post_init__(self) -> None:
        if not 0.001 <= self.seconds < self.target + 0.5:  # section 4.3.3.1
            raise ValueError(f"segments of {self.seconds} s do not keep to a target of {self.target} s")
        if self.window is not None and self.window * self.seconds < 3 * self.target:  # section 6.2.2
            raise ValueError(
                f"a window must be at least three times {self.target} s, got {self.window} * {self.seconds} s"
            )
        if "{number}" not in self.uri:
            raise ValueError(f"the uri must have {{number}} in it, got {self.uri!r}")


def playlist(config: HlsConfig, settled: float, *, ended: bool = False) -> str:
    """The media playlist of a stream of subtitles.

    Args:
        config: how they are segmented.
        settled: second up to which no cue will come any more, or where the subtitles end.
        ended: whether they have ended; the last segment may then be shorter.
    """
    step, end = _milliseconds(config.seconds), _milliseconds(settled)
    count = complete_segments(config, settled, ended=ended)
    first = 0 if config.window is None else max(0, count - config.window)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:3",  # decimal durations
        f"#EXT-X-TARGETDURATION:{config.target}",
        f"#EXT-X-MEDIA-SEQUENCE:{first}",
    ]
    if config.window is None:
        lines.append("#EXT-X-PLAYLIST-TYPE:EVENT")
    for number in range(first, count):
        duration = min(step, end - number * step)
        lines += [f"#EXTINF:{duration / 1000:.3f},", config.uri.format(number=number)]
    if ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def complete_segments(config: HlsConfig, settled: float, *, ended: bool = False) -> int:
    """How many media segments there are, for the same arguments as in :func:`playlist`."""
    step = _milliseconds(config.seconds)
    # Rounding up what is settled would list a segment that still waits for the rest of its last millisecond.
    return -(-_milliseconds(settled) // step) if ended else math.floor(settled * 1000) // step


def segment(config: HlsConfig, cues: Iterable[Cue], number: int) -> str:
    """A media segment: every cue that is shown in its time, each with all of its own time (section 3.5).

    So a cue that is shown across a border is in the segments on both sides.

    Args:
        config: how the subtitles are segmented.
        cues: in order; at least those that are shown in the time of the segment.
        number: of the segment, from 0.
    """
    step = _milliseconds(config.seconds)
    begin, end = number * step / 1000, (number + 1) * step / 1000
    shown = [cue for cue in cues if cue.start < end and cue.end > begin]
    return to_webvtt(shown, f"X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:{config.mpegts % _PTS_RANGE}")


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
