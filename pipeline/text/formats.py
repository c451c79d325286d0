"""Cues as text formats, just as they are: WebVTT, SubRip, plain text and JSON.

WebVTT: https://www.w3.org/TR/webvtt1, section 4.1. SubRip has no standard; this is what players agree on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from pipeline.text.cues import Cue


def to_webvtt(cues: Iterable[Cue], *header: str) -> str:
    """A WebVTT file.

    Args:
        cues: in order.
        header: further header lines, as segments of HTTP Live Streaming have one.
    """
    blocks = [
        f"{clock(cue.start)} --> {clock(cue.end)}\n{_escaped(lines)}" for cue in cues if (lines := cue.lines)
    ]
    return "\n\n".join(["\n".join(["WEBVTT", *header]), *blocks]) + "\n"


def to_subrip(cues: Iterable[Cue]) -> str:
    """A SubRip file. The format knows no escapes; an arrow in the text becomes another one."""
    shown = [(cue, lines) for cue in cues if (lines := cue.lines)]
    blocks = [
        f"{number}\n{clock(cue.start, ',')} --> {clock(cue.end, ',')}\n"
        + "\n".join(lines).replace("-->", "→")
        for number, (cue, lines) in enumerate(shown, start=1)
    ]
    return "".join(f"{block}\n\n" for block in blocks)


def to_text(cues: Iterable[Cue]) -> str:
    """The lines of all cues, an empty line between two cues."""
    return "\n".join("".join(f"{line}\n" for line in lines) for cue in cues if (lines := cue.lines))


def to_json(cues: Iterable[Cue]) -> str:
    """A JSON list of objects with ``start`` and ``end`` in seconds and ``text`` with its line breaks."""
    return json.dumps([asdict(cue) for cue in cues], ensure_ascii=False, indent=2) + "\n"


def clock(seconds: float, point: str = ".") -> str:
    """A time as ``HH:MM:SS.mmm``, to the nearest millisecond; hours may have more than two digits."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _escaped(lines: Iterable[str]) -> str:
    return "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
