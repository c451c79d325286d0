"""Machines that are network namespaces of this one, and processes on them; it takes the rights of root."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "of-this-test-alone" * 2,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_worker_prestart": "0",
    "PYTHONUNBUFFERED": "1",
}
"""Variables of every process of a Ray on machines."""


class Machines:
    """Namespaces on one switch, by number from 1 up; machine n has the address 10.77.0.n.

    Nothing of them is seen from outside: the switch is in a namespace of its own, too.
    """

    def __init__(self, number: int) -> None:
        self._prefix = f"surtitle{os.getpid()}"
        self._numbers = range(1, number + 1)
        self.switch = f"{self._prefix}-switch"

    def __enter__(self) -> Machines:
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "switch", "up")
        for number in self._numbers:
            name, port = self.name(number), f"port{number}"
            _ip("netns", "add", name)
            _ip("-n", self.switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self.switch, "link", "set", port, "master", "switch", "up")
            _ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            # Ray finds its own address by the way out, which leads nowhere.
            _ip("-n", name, "route", "add", "default", "via", "10.77.0.254")
        return self

    def __exit__(self, *_: object) -> None:
        for name in (self.switch, *map(self.name, self._numbers)):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def name(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    @staticmethod
    def address(number: int) -> str:
        return f"10.77.0.{number}"

    def cut(self, number: int) -> None:
        """Pull the plug: packets are lost, and nobody is told."""
        _ip("-n", self.switch, "link", "set", f"port{number}", "down")

    def kill(self, number: int, title: str) -> None:
        """End the process of a machine that goes by a title."""
        done = subprocess.run(
            ["ip", "netns", "pids", self.name(number)], capture_output=True, text=True, check=True
        )
        (pid,) = [pid for pid in done.stdout.split() if _title(pid).startswith(title)]
        os.kill(int(pid), signal.SIGKILL)


def _title(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text()
    except FileNotFoundError:
        return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)


@contextlib.asynccontextmanager
async def process(machines, number, *command, errors, **variables):
    """A process on a machine; it and all that it has started end with the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    running = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", machines.name(number), *command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=errors,
        env=environment | variables,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        for pid in _session(running.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await running.wait()


def _session(leader):
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(name)) == leader:
                yield int(name)


async def line_with(stream, text):
    said = []
    while text not in (line := (await stream.readline()).decode()):
        assert line, f"it ended without saying {text!r}: {''.join(said)}"
        said.append(line)
