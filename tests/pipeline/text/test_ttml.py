"""Cues as EBU-TT-D."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.cues import Cue
from pipeline.text.ttml import to_ttml
from tests.pipeline.text.parsers import TT, parse_ttml
from tests.pipeline.text.test_formats import rounded

CUES = [Cue(1, 2.5, "One,\ntwo <b> & --> three."), Cue(360_000, 360_001, "Four.")]

PARAMETER = "{http://www.w3.org/ns/ttml#parameter}"
STYLING = "{http://www.w3.org/ns/ttml#styling}"
XML = "{http://www.w3.org/XML/1998/namespace}"


def parsed(cues, language="en"):
    return ET.fromstring(to_ttml(cues, language).encode())


def test_cues_are_paragraphs():
    assert (
        '<p xml:id="subtitle1" region="bottom" style="paragraph" begin="00:00:01.000" end="00:00:02.500">'
        '<span style="text">One,<br />two &lt;b&gt; &amp; --&gt; three.</span></p>\n'
        '<p xml:id="subtitle2" region="bottom" style="paragraph" begin="100:00:00.000" end="100:00:01.000">'
        '<span style="text">Four.</span></p>\n'
    ) in to_ttml(CUES, "en")


def test_what_the_standard_wants_at_the_root():
    document = parsed(CUES, "es")

    assert document.get(f"{XML}lang") == "es"
    assert document.get(f"{PARAMETER}timeBase") == "media"
    assert document.get(f"{PARAMETER}cellResolution") == "32 15"
    assert to_ttml(CUES, "es").startswith('<?xml version="1.0" encoding="UTF-8"?>\n<tt ')


def test_what_the_standard_wants_in_the_head():
    document = parsed(CUES)

    assert [child.tag for child in document] == [f"{TT}head", f"{TT}body"]
    assert [child.tag for child in document[0]] == [f"{TT}metadata", f"{TT}styling", f"{TT}layout"]
    standard = document.find(f"{TT}head/{TT}metadata/{{urn:ebu:tt:metadata}}conformsToStandard")
    assert standard.text == "urn:ebu:tt:distribution:2018-04"


def test_styles_and_regions_exist():
    document = parsed([*CUES, Cue(5, 6, "שלום")])
    names = {element.get(f"{XML}id") for element in document.find(f"{TT}head").iter()} - {None}

    used = [name for element in document.iter() for name in element.get("style", "").split()]
    assert set(used) | {element.get("region") for element in document.iter(f"{TT}p")} == names


@pytest.mark.parametrize(
    ("text", "leftwards"),
    [("שלום, Maria", True), ("«مرحبا»", True), ("Maria, שלום", False), ("123 ...", False), ("漢字", False)],
)
def test_direction(text, leftwards):
    (paragraph,) = parsed([Cue(0, 1, text)]).iter(f"{TT}p")
    (style,) = parsed([]).iterfind(f".//{TT}style[@{XML}id='leftwards']")

    assert ("leftwards" in paragraph.get("style").split()) == leftwards
    assert style.get(f"{STYLING}direction") == "rtl"


def test_no_cues_no_body():
    assert parsed([]).find(f"{TT}body") is None
    assert parsed([Cue(0, 1, "\n")]).find(f"{TT}body") is None


def test_characters_that_xml_has_not_are_replaced():
    assert parse_ttml(to_ttml([Cue(0, 1, "a\0b\x1bc\ufffed😀")], "en")) == [(0, 1000, ["a�b�c�d😀"])]


@given(st.lists(st.builds(Cue, st.floats(0, 1e6), st.floats(0, 1e6), st.text())))
def test_ttml_is_read_as_it_was_written(cues):
    illegal = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF], "\ufffd")
    expected = [
        (start, end, [line.translate(illegal) for line in lines]) for start, end, lines in rounded(cues)
    ]

    assert parse_ttml(to_ttml(cues, "en")) == expected
