"""The benchmark of detected languages, with a model of random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from benchmarks import languages


@pytest.mark.usefixtures("espeak_ng")
def test_the_last_line_is_the_result(checkpoint, capsys):
    languages.main(["--limit", "2", "--model", str(checkpoint)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert result.keys() == languages.CUTS.keys()
    for shares in result.values():
        assert shares.keys() == {"es", "en"}
        assert set(shares.values()) <= {0, 0.5, 1}


def test_people_are_heard_in_the_languages_that_there_are_recordings_of(tmp_path, checkpoint, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000), 16_000)
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text("file\tlang\ttranscript\na.wav\tes\thola\na.wav\tes\tsí\nno.wav\tde\tja\n")
    languages.main(["--human", str(tmp_path), "--limit", "1", "--model", str(checkpoint)])
    lines = capsys.readouterr().out.splitlines()

    assert [line.split()[:3] for line in lines[1:-1]] == [[name, "es", "1"] for name in languages.CUTS]
    assert [shares.keys() for shares in json.loads(lines[-1]).values()] == [{"es"}] * len(languages.CUTS)

    manifest.write_text("file\tlang\ttranscript\nno.wav\tde\tja\n")
    with pytest.raises(SystemExit, match="2"):
        languages.main(["--human", str(tmp_path), "--model", str(checkpoint)])

    assert "has no recordings in es, en" in capsys.readouterr().err


def test_english_is_heard_once_whatever_it_is_translated_into(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(800), 16_000)
    (tmp_path / "manifest.tsv").write_text("file\tlang\ttranscript\na.wav\ten\thi\n")
    clips = languages.clips_by_language(["es", "it", "en"], 5, tmp_path)

    assert {language: len(some) for language, some in clips.items()} == {"en": 1}


def test_there_must_be_a_clip(capsys):
    with pytest.raises(SystemExit):
        languages.main(["--limit", "0"])

    assert "--limit must be above 0" in capsys.readouterr().err
