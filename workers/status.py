"""``surtitle status``: what a server's metrics say, as a table."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.table import Table

from workers.listen import KEY_VARIABLE
from workers.protocols import StreamError

PERIOD = 1.0
"""Seconds from one look to the next."""

STAGES = ("encoder", "decoder")

Samples = Mapping[tuple[str, str], float]
"""Values by the metric's name and the value of its first label, if it has one."""


def show(url: str, *, once: bool = False, console: Console | None = None) -> None:
    """Show how a server is doing until Ctrl-C.

    Args:
        url: of the server; what follows the host is ignored. ``SURTITLE_KEY`` has the key, if it wants one.
        once: print the table once and return.
        console: where to.

    Raises:
        StreamError: the server does not answer, or refuses to.
    """
    console = console or Console()
    parts = urlsplit(url.replace("ws", "http", 1) if url.startswith("ws") else url)
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(base_url=f"{parts.scheme}://{parts.netloc}", headers=headers) as http:
        samples = _fetch(http)
        if once:
            console.print(table(samples, samples, 0.0))
            return
        with Live(table(samples, samples, 0.0), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(PERIOD)
                before, samples = samples, _fetch(http)
                live.update(table(samples, before, PERIOD), refresh=True)


def table(now: Samples, before: Samples, seconds: float) -> Table:
    """What to show.

    Args:
        now: the newest metrics.
        before: those of a while ago.
        seconds: between the two; 0 for rates since the server's start.
    """

    def value(name: str, label: str = "") -> float:
        return now.get((f"surtitle_{name}", label), 0.0)

    def grown(name: str, label: str = "") -> float:
        grown = value(name, label)
        return grown - before.get((f"surtitle_{name}", label), 0.0) if seconds else grown

    def mean(name: str, label: str = "") -> str:
        count = grown(f"{name}_count", label)
        return f"{grown(f'{name}_sum', label) / count:.3f} s" if count else "-"

    def total(name: str) -> float:
        return sum(value for (known, _), value in now.items() if known == f"surtitle_{name}")

    rows: Sequence[tuple[str, ...]] = (
        ("streams", f"{value('streams'):.0f}", ""),
        ("viewers", f"{value('viewers'):.0f}", ""),
        ("final text behind the end of speech", mean("final_latency_seconds"), ""),
        ("audio per second" if seconds else "audio", f"{grown('audio_received_seconds_total'):.1f} s", ""),
        ("workers", *(f"{value('workers', stage):.0f}" for stage in STAGES)),
        ("narrowed", *(f"{value('workers_narrowed', stage):.0f}" for stage in STAGES)),
        ("free places", *(f"{value('places_free', stage):.0f}" for stage in STAGES)),
        ("busiest", *(f"{value('worker_load_ratio', stage):.0%}" for stage in STAGES)),
        ("requests waiting", *(f"{value('requests_waiting', stage):.0f}" for stage in STAGES)),
        ("one call", *(mean("call_duration_seconds", stage) for stage in STAGES)),
        ("workers lost", *(f"{value('workers_lost_total', stage):.0f}" for stage in STAGES)),
        ("streams moved", *(f"{value('streams_moved_total', stage):.0f}" for stage in STAGES)),
        ("errors", f"{total('errors_total'):.0f}", ""),
        ("requests refused", f"{total('requests_refused_total'):.0f}", ""),
    )
    shown = Table(show_edge=False)
    for name in ("", "server, encoders", "decoders"):
        shown.add_column(name, justify="left" if not name else "right")
    for row in rows:
        shown.add_row(*row)
    return shown


def _fetch(http: httpx2.Client) -> Samples:
    try:
        answer = http.get("/metrics")
    except httpx2.HTTPError as error:
        raise StreamError(
            f"no Surtitle server answers at {http.base_url} ({error})", code="unreachable"
        ) from None
    if answer.status_code != httpx2.codes.OK:
        raise StreamError(answer.text.strip(), code="refused")
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if "le" not in sample.labels
    }
