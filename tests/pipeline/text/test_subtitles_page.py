"""docs/subtitles.md tells the truth."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from pipeline.text.cues import CueConfig
from tests.conftest import ROOT

PAGE = (ROOT / "docs/subtitles.md").read_text("utf-8")


def test_examples():
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}

    exec(compile("".join(examples), "subtitles.md", "exec"), names)

    assert names["live"].count("#EXTINF") == 4
    assert names["whole"].endswith("#EXTINF:1.000,\nen-4.vtt\n#EXT-X-ENDLIST\n")
    assert "Those who live here know more\nabout the history" in names["body"]


@pytest.mark.parametrize("setting", [field.name for field in fields(CueConfig)])
def test_every_setting_of_cues_is_explained(setting):
    assert re.search(rf"`(CueConfig\()?{setting}\b", PAGE)
