"""The benchmark of sounds that are no speech, with sounds of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from benchmarks import sounds


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """As if all packages had been fetched: clicks in place of the recordings."""
    rng = np.random.default_rng(0)
    for kind in (*sounds.KINDS.values(), *sounds.UNSEEN.values()):
        for pattern in kind.files:
            name = pattern.removeprefix("**/").replace("[b-z]", "b").replace("*", "x")
            path = tmp_path / kind.package / "usr" / "share" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = rng.normal(0, 0.1, 2_000).clip(-1, 1)
            soundfile.write(path, wave, 16_000, format="OGG" if path.suffix == ".oga" else None)
    return tmp_path


def test_the_last_line_is_the_result(checkpoint, folder, capsys):
    sounds.main(["--minutes", "0.2", "--folder", str(folder), "--model", str(checkpoint)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert result["kinds"].keys() == sounds.KINDS.keys()
    assert result["hallucinated_words"] == sum(kind["words"] for kind in result["kinds"].values())
    assert sum(kind["seconds"] for kind in result["kinds"].values()) == pytest.approx(12, abs=0.1)


def test_unseen_sounds_are_others(checkpoint, folder, capsys):
    asked = ["--unseen", "--seed", "3", "--minutes", "0.1"]
    sounds.main([*asked, "--folder", str(folder), "--model", str(checkpoint)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    seen = {kind.package for kind in sounds.KINDS.values()}

    assert result["kinds"].keys() == sounds.UNSEEN.keys()
    assert seen.isdisjoint(kind.package for kind in sounds.UNSEEN.values())
    assert sum(kind.share for kind in sounds.UNSEEN.values()) == 1


def test_sounds_are_played_at_all_levels_and_with_pauses():
    played = sounds.played([np.ones(16_000, np.float32)], 60.0)
    peaks = np.abs(played.reshape(-1, 1_600)).max(1)

    assert len(played) == 60 * 16_000
    assert peaks.min() < 0.01
    assert peaks.max() > 0.3
    assert np.abs(played).max() <= 1


def test_without_debian_it_is_said_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        sounds.main(["--folder", str(tmp_path)])

    assert ended.value.code == 1
    assert "Debian packages, and there is no apt-get here" in capsys.readouterr().err
