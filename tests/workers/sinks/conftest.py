"""Destinations on loopback that behave as the real ones are documented to, and misbehave as told."""

from __future__ import annotations

import asyncio
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from workers.sinks.base import Caption


def caption(number=1, text="Hello.", *, stream="s", start=None, seconds=2.0):
    start = time.time() if start is None else start
    return Caption(number, stream, "en", text, start, start + seconds)


class Destination:
    """An HTTP server; a subclass answers requests in :meth:`answer`.

    ``mishaps`` happen first, one for each request: a status, "lost" (no answer) or "cut" (the request is
    carried out, its answer is lost).
    """

    def __init__(self):
        self.requests = []
        self.mishaps = []
        destination = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = urlsplit(self.path)
                request = SimpleNamespace(
                    method=self.command,
                    path=parts.path,
                    query={name: values[0] for name, values in parse_qs(parts.query).items()},
                    headers=dict(self.headers.items()),
                    body=body,
                )
                destination.requests.append(request)
                mishap = destination.mishaps.pop(0) if destination.mishaps else None
                if mishap == "lost":
                    self.close_connection = True
                    return
                headers = {}
                if isinstance(mishap, tuple):
                    mishap, headers = mishap
                status, text = (mishap, "") if isinstance(mishap, int) else destination.answer(request)
                if mishap == "cut":
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_PUT = do_GET  # noqa: N815

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, request):
        return 200, ""

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(name="destination")
async def _destination():
    server = Destination()
    yield server
    await asyncio.to_thread(server.close)
