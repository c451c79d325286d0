"""Cues as EBU-TT-D, the profile of TTML in which European broadcasters distribute subtitles.

EBU Tech 3380, *EBU-TT-D subtitling distribution format*, version 1.0.1. Its documents are documents of W3C's
IMSC text profile too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from pipeline.text.cues import Cue
from pipeline.text.formats import clock

_ROOT = {
    "xmlns": "http://www.w3.org/ns/ttml",
    "xmlns:ttp": "http://www.w3.org/ns/ttml#parameter",
    "xmlns:tts": "http://www.w3.org/ns/ttml#styling",
    "xmlns:ebuttm": "urn:ebu:tt:metadata",
    "ttp:timeBase": "media",
    "ttp:cellResolution": "32 15",
}
_STANDARD = "urn:ebu:tt:distribution:2018-04"

# At 80 % of a cell, 42 columns take about two thirds of the width of a 16:9 picture, as the BBC wants it.
_STYLES = {
    "paragraph": {
        "tts:fontFamily": "proportionalSansSerif",
        "tts:fontSize": "80%",
        "tts:lineHeight": "120%",
        "tts:textAlign": "center",
    },
    "leftwards": {"tts:direction": "rtl", "tts:unicodeBidi": "embed"},
    "text": {"tts:color": "#ffffff", "tts:backgroundColor": "#000000"},
}
_REGION = {"xml:id": "bottom", "tts:origin": "10% 10%", "tts:extent": "80% 80%", "tts:displayAlign": "after"}

# Characters that XML 1.0 has no place for (section 2.2).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_ttml(cues: Iterable[Cue], language: str) -> str:
    """An EBU-TT-D document, to be encoded in UTF-8.

    Args:
        cues: in order.
        language: BCP 47 tag of their text; an ISO 639-1 code is one.
    """
    document = ET.Element("tt", _ROOT | {"xml:lang": language})
    _add_head(document)
    shown = [(cue, lines) for cue in cues if (lines := cue.lines)]
    if shown:  # there is no body without a subtitle in it
        division = ET.SubElement(ET.SubElement(document, "body"), "div")
        for number, (cue, lines) in enumerate(shown, start=1):
            _add_subtitle(division, f"subtitle{number}", cue, lines)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(document, encoding="unicode") + "\n"


def _add_head(document: ET.Element) -> None:
    head = ET.SubElement(document, "head")
    ET.SubElement(ET.SubElement(head, "metadata"), "ebuttm:conformsToStandard").text = _STANDARD
    styling = ET.SubElement(head, "styling")
    for name, properties in _STYLES.items():
        ET.SubElement(styling, "style", {"xml:id": name} | properties)
    ET.SubElement(ET.SubElement(head, "layout"), "region", _REGION)
    ET.indent(head)


def _add_subtitle(division: ET.Element, name: str, cue: Cue, lines: list[str]) -> None:
    style = "paragraph leftwards" if _leftwards(cue.text) else "paragraph"
    times = {"begin": clock(cue.start), "end": clock(cue.end)}
    paragraph = ET.SubElement(division, "p", {"xml:id": name, "region": "bottom", "style": style} | times)
    # Within a paragraph white space would be shown; behind it, it makes one subtitle a line.
    paragraph.tail = "\n"
    span = ET.SubElement(paragraph, "span", {"style": "text"})
    first, *others = (_NOT_XML.sub("\ufffd", line) for line in lines)
    span.text = first
    for line in others:
        ET.SubElement(span, "br").tail = line


def _leftwards(text: str) -> bool:
    """Whether the first letter is one of a script written from right to left (Unicode Annex #9, rule P2)."""
    strong = (unicodedata.bidirectional(char) for char in text)
    return next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"
