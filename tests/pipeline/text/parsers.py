"""Readers of subtitle formats, written from their specifications and not from the writers.

Each returns cues as tuples of the start and end in milliseconds and the lines.
"""

from __future__ import annotations

import html
import re
from xml.etree import ElementTree as ET

TT = "{http://www.w3.org/ns/ttml}"


def milliseconds(time, point="."):
    hours, minutes, seconds = time.split(":")
    assert len(hours) >= 2
    assert re.fullmatch(rf"[0-5]\d{re.escape(point)}\d{{3}}", seconds)
    assert re.fullmatch(r"[0-5]\d", minutes)
    return (int(hours) * 60 + int(minutes)) * 60_000 + int(seconds.replace(point, ""))


def parse_webvtt(text):
    """The parser of w3.org/TR/webvtt1, section 6.1, for files without cue settings, styles and notes."""
    lines = text.replace("\0", "\ufffd").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert re.match(r"WEBVTT([ \t]|$)", lines.pop(0))
    while lines and lines[0]:
        assert "-->" not in lines.pop(0)
    cues = []
    while lines:
        if not (line := lines.pop(0)):
            continue
        start, end = line.split(" --> ")
        payload = []
        while lines and lines[0] and "-->" not in lines[0]:
            payload.append(lines.pop(0))
        assert not any("<" in shown for shown in payload)
        cues.append((milliseconds(start), milliseconds(end), [html.unescape(shown) for shown in payload]))
    return cues


def parse_subrip(text):
    """Blocks of a counter, times and text, with an empty line behind each."""
    assert not text or text.endswith("\n\n")
    cues = []
    for number, block in enumerate(text.split("\n\n")[:-1], start=1):
        counter, times, *lines = block.split("\n")
        assert int(counter) == number
        start, end = times.split(" --> ")
        cues.append((milliseconds(start, ","), milliseconds(end, ","), lines))
    return cues


def parse_ttml(text):
    """EBU Tech 3380: cues are paragraphs; their text is in spans, their lines are parted by ``br``."""
    root = ET.fromstring(text.encode())  # expat, which knows nothing of how the document was made
    assert root.tag == f"{TT}tt"
    cues = []
    for paragraph in root.iterfind(f"{TT}body/{TT}div/{TT}p"):
        assert not (paragraph.text or "").strip()
        (span,) = paragraph
        lines = [span.text, *(br.tail for br in span)]
        cues.append((milliseconds(paragraph.get("begin")), milliseconds(paragraph.get("end")), lines))
    return cues


def parse_playlist(text):
    """RFC 8216, section 4: the tags of a media playlist, and its segments with their durations."""
    first, *lines = text.splitlines()
    assert first == "#EXTM3U"
    tags, segments, duration = {}, [], None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "#EXTINF":
            duration = float(value.removesuffix(","))
        elif line.startswith("#"):
            assert name not in tags
            tags[name.removeprefix("#EXT-X-")] = value
        else:
            segments.append((line, duration))
            duration = None
    assert duration is None
    return tags, segments
