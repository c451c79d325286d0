"""What ``make run`` shows: a server is started, hears a recording at the speed of speech, and is stopped.

python examples/demo.py [RECORDING] [--from es] [--to en]
"""

from __future__ import annotations

import argparse
import http.client
import socket
import subprocess
import sys
import time
from pathlib import Path

RECORDING = Path(__file__).with_name("talk.es.wav")
HOST = "127.0.0.1"
START_WITHIN = 180.0
"""Seconds; the first start compiles the kernels."""
STOP_WITHIN = 30.0


def free_port() -> int:
    """A port that nothing listens on, so that the demonstration disturbs no server that runs already."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(port: int) -> bool:
    """Whether the server answers that it can take streams."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Ask until the server is ready.

    Raises:
        SystemExit: it ended, or took too long.
    """
    give_up = time.monotonic() + START_WITHIN
    while not is_ready(port):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with exit code {server.returncode}")
        if time.monotonic() > give_up:
            raise SystemExit(f"the server was not ready within {START_WITHIN:.0f} s")
        time.sleep(0.1)


def stop(server: subprocess.Popen[bytes]) -> int:
    """Have the server finish; returns its exit code."""
    server.terminate()
    try:
        return server.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def main() -> int:
    """Run the demonstration; returns the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description="Watch a recording being translated while it plays.")
    parser.add_argument("recording", nargs="?", type=Path, default=RECORDING)
    parser.add_argument("--from", dest="source", default="es")
    parser.add_argument("--to", dest="target", default="en")
    options = parser.parse_args()

    surtitle = (sys.executable, "-m", "pipeline")
    languages = ("--from", options.source, "--to", options.target)
    port = free_port()
    url = f"ws://{HOST}:{port}/v1/stream"
    server = subprocess.Popen([*surtitle, "serve", "--host", HOST, "--port", str(port)])
    try:
        wait_until_ready(server, port)
        listen = [*surtitle, "listen", str(options.recording), "--url", url, *languages]
        listened = subprocess.run(listen, check=False).returncode
    finally:
        stopped = stop(server)
    return listened or stopped


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
