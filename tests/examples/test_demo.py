"""The demonstration's handling of its server; `make run` is the demonstration itself."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from examples import demo

ANSWERS = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if self.path == "/readyz" and Handler.asked > 2 else 503)
        self.end_headers()
    def log_message(self, *arguments):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_waits_until_the_server_says_that_it_is_ready():
    port = demo.free_port()
    assert not demo.is_ready(port)
    with subprocess.Popen([sys.executable, "-c", ANSWERS, str(port)]) as server:
        demo.wait_until_ready(server, port)
        assert demo.is_ready(port)
        assert demo.stop(server) == -signal.SIGTERM


def test_gives_up_at_once_when_the_server_ends():
    with (
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as server,
        pytest.raises(SystemExit, match="ended with exit code 3"),
    ):
        demo.wait_until_ready(server, demo.free_port())


def test_gives_up_when_the_server_takes_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "START_WITHIN", 0.3)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        with pytest.raises(SystemExit, match="not ready within"):
            demo.wait_until_ready(server, demo.free_port())
        assert demo.stop(server) == -signal.SIGTERM


def test_server_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "STOP_WITHIN", 0.3)
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        assert demo.stop(server) == -signal.SIGKILL


def test_bundled_recording_is_what_its_description_says():
    from pipeline.audio.files import read_audio

    assert 10 < len(read_audio(demo.RECORDING)) / 16_000 < 30
    assert demo.RECORDING.stat().st_size <= 600_000
