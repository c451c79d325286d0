"""Whatever strangers send, nothing comes of it but the documented error: a short look, the same each time.

``python -m benchmarks.fuzz`` looks for as long as one likes.
"""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import TARGETS, seeds

ROUNDS = {"commands": 5_000, "codecs": 150}


def spoilt(seed, number):
    """A good beginning with some bytes changed, cut out or doubled."""
    draws = random.Random(number)
    data = bytearray(seed)
    for _ in range(draws.randint(1, 8)):
        at = draws.randrange(len(data) + 1)
        match draws.randrange(4):
            case 0 if at < len(data):
                data[at] = draws.randrange(256)
            case 1:
                data[at : at + draws.randint(1, 64)] = b""
            case 2:
                data[at:at] = data[at : at + draws.randint(1, 64)]
            case 3:
                data[at:at] = draws.randbytes(draws.randint(1, 8))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_spoilt_input_is_refused_or_read(name):
    begin = threading.active_count()

    @settings(max_examples=150)
    @given(st.sampled_from(seeds(name)), st.integers(0, 1 << 32))
    @example(b"", 0)
    def run(seed, number):
        TARGETS[name](spoilt(seed, number))

    run()

    for thread in threading.enumerate():
        if thread is not threading.current_thread() and threading.active_count() > begin:
            thread.join(timeout=10)
    assert threading.active_count() <= begin


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="pip install 'surtitle[fuzz]'")
@pytest.mark.parametrize("name", ROUNDS)
def test_bytes_led_by_the_lines_that_they_reach_are_refused_or_read(name, tmp_path):
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.fuzz",
            name,
            f"-runs={ROUNDS[name]}",
            "-seed=1",
            f"-artifact_prefix={tmp_path}/",
        ],
        check=False,
        capture_output=True,
    )

    assert ran.returncode == 0, ran.stderr[-4_000:].decode(errors="replace")
    assert not list(tmp_path.iterdir())
