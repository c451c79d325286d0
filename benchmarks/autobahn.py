"""What the Autobahn test suite says of the server's WebSockets, with the server's own limits.

The suite wants an echo, so that is what the server says here; everything below that is the gateway's own. The
suite is a program for Python 2.7 (``virtualenv -p python2.7 V && V/bin/pip install autobahntestsuite``)::

    python -m benchmarks.autobahn V/bin/wstest
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from pipeline.wire.protocol import Limits
from workers.fleet import Fleet
from workers.gateway import Gateway
from workers.metrics import Metrics

NOT_OFFERED = ("12.*", "13.*")
"""Cases of compression, which the server never agrees to."""


class Echo(Gateway):
    """A gateway whose WebSockets answer every message with itself."""

    async def _handle(self, connection: ServerConnection) -> None:
        try:
            async for message in connection:
                await connection.send(message)
        except ConnectionClosed:
            pass


async def examine(wstest: Path, cases: list[str]) -> dict[str, Any]:
    """Run the suite; returns what it says of each case."""
    # Nobody starts a stream here, so that no workers are needed.
    nobody = Fleet([], 0.0)
    gateway = Echo(nobody, nobody, model="none", limits=Limits(), metrics=Metrics())
    sock = socket.create_server(("127.0.0.1", 0))
    with tempfile.TemporaryDirectory() as folder:
        async with gateway.serve(sock):
            spec = {
                "outdir": folder,
                "servers": [
                    {
                        "agent": "surtitle",
                        "url": f"ws://127.0.0.1:{sock.getsockname()[1]}/v1/stream",
                        "options": {"version": 18},
                    }
                ],
                "cases": cases,
                "exclude-cases": list(NOT_OFFERED),
                "exclude-agent-cases": {},
            }
            (at := Path(folder, "spec.json")).write_text(json.dumps(spec), "utf-8")
            suite = await asyncio.create_subprocess_exec(
                wstest, "-m", "fuzzingclient", "-s", at, stdout=asyncio.subprocess.DEVNULL, cwd=folder
            )
            if await suite.wait():
                raise SystemExit(f"{wstest} ended with {suite.returncode}")
        return await asyncio.to_thread(_verdicts, Path(folder, "index.json"))


def _verdicts(index: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(index.read_text("utf-8"))["surtitle"]
    return said


def main() -> None:
    """Print how many cases of each family came out how, and which came out badly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wstest", type=lambda text: Path(text).absolute(), help="the suite's program")
    parser.add_argument(
        "--cases", nargs="+", default=["*"], metavar="CASE", help="as in 7.1.*; all by default"
    )
    options = parser.parse_args()
    said = asyncio.run(examine(options.wstest, options.cases))
    families: dict[int, Counter[str]] = defaultdict(Counter)
    for case, verdict in said.items():
        families[int(case.partition(".")[0])][verdict["behavior"]] += 1
    for family, counted in sorted(families.items()):
        print(f"{family:>3}  {', '.join(f'{count} {word}' for word, count in sorted(counted.items()))}")
    for case in sorted(said, key=lambda name: [int(part) for part in name.split(".")]):
        verdict = said[case]
        if verdict["behavior"] == "FAILED" or verdict["behaviorClose"] not in ("OK", "INFORMATIONAL"):
            print(f"{case:<9} {verdict['behavior']}, closing {verdict['behaviorClose']}")


if __name__ == "__main__":
    main()
