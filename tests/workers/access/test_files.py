"""A watched file is read again when it has changed, and only then."""

from __future__ import annotations

import os

import pytest

from workers.access.files import Watched


def test_changes_are_seen_however_they_are_made(tmp_path):
    path, reads = tmp_path / "file", []
    path.write_text("one")
    watched = Watched(path, lambda data: reads.append(data) or data.decode())
    assert [watched.get(), watched.get(), len(reads)] == ["one", "one", 1]

    path.write_text("three")
    assert watched.get() == "three"

    (tmp_path / "new").write_text("seven")
    os.replace(tmp_path / "new", path)
    assert watched.get() == "seven"
    assert len(reads) == 3


def test_a_file_that_has_gone_leaves_its_content(tmp_path, caplog):
    path = tmp_path / "file"
    path.write_text("one")
    watched = Watched(path, bytes.decode)
    path.unlink()

    assert watched.get() == "one"
    assert "left as it was" in caplog.text


def test_what_is_wrong_at_the_start_is_raised(tmp_path):
    with pytest.raises(FileNotFoundError):
        Watched(tmp_path / "file", bytes.decode)
    (tmp_path / "file").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="utf-8"):
        Watched(tmp_path / "file", bytes.decode)
