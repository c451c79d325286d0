"""A full disk harms what is written to it, and nothing else."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from pipeline import ple_file
from tests.workers.conftest import client, running
from workers import logs
from workers.access import keys


@pytest.fixture(name="disk")
def _disk(tmp_path):
    """A folder on a disk of its own, of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(itertools.repeat(bytes(4096)))


def test_keys_are_as_they_were_and_nothing_lies_about(disk):
    path = disk / "keys.json"
    kept = keys.add_key(path, "hall", ("speak",), time.time)
    fill(disk)

    for _ in range(2):
        with pytest.raises(keys.KeyFileError, match="cannot be written: No space left"):
            keys.add_key(path, "stage", ("speak",), time.time)

    assert keys.KeyRing(path).identify(kept) is not None
    assert sorted(file.name for file in disk.iterdir()) == ["filler", "keys.json"]


def test_a_converted_table_that_does_not_fit_leaves_no_file(disk, checkpoint):
    fill(disk)

    with pytest.raises(OSError, match="No space left"):
        ple_file.convert(checkpoint, disk / "ple.safetensors", 8, lambda done: None)

    assert [file.name for file in disk.iterdir()] == ["filler"]


def test_a_result_that_does_not_fit_is_said_so(checkpoint):
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "pipeline", "model", "info", checkpoint],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert ran.returncode == 1
    assert ran.stderr == "surtitle: the result cannot be written: No space left on device\n"


async def test_streams_go_on_when_nothing_can_be_logged(monkeypatch):
    root, ours = logging.getLogger(), logging.getLogger("workers")
    before, level = root.handlers[:], ours.level
    with suppress(OSError), open("/dev/full", "w") as full:  # noqa: ASYNC230 - nobody waits for it
        monkeypatch.setattr(sys, "stderr", full)
        root.handlers.clear()
        logs.configure("json")
        try:
            async with running() as server, client(server.url, {"type": "start"}, b"hola!!") as poisoned:
                assert (await poisoned.rest())[-1]["code"] == "internal"
                async with client(server.url, {"type": "start"}, b"hola.", b".", {"type": "stop"}) as other:
                    assert (await other.rest())[-1]["type"] == "done"
        finally:
            root.handlers[:] = before
            ours.setLevel(level)
