"""The benchmark of detected languages, with a model of random weights."""

from __future__ import annotations

import json

import pytest

from benchmarks import languages


@pytest.mark.usefixtures("espeak_ng")
def test_the_last_line_is_the_result(checkpoint, capsys):
    languages.main(["--limit", "2", "--model", str(checkpoint)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert result.keys() == languages.CUTS.keys()
    for shares in result.values():
        assert shares.keys() == {"es", "en"}
        assert set(shares.values()) <= {0, 0.5, 1}


def test_there_must_be_a_clip(capsys):
    with pytest.raises(SystemExit):
        languages.main(["--limit", "0"])

    assert "--limit must be above 0" in capsys.readouterr().err
