"""The Grafana dashboard asks for metrics that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.workers.conftest import client, running

DASHBOARD = Path(__file__).parents[2] / "k8s" / "dashboards" / "surtitle.json"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

_METRIC = re.compile(r"surtitle_\w+")
_BY = re.compile(r"by \(([^)]*)\)")


def queries():
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


@pytest.fixture(name="samples", scope="module")
async def _samples():
    """Names of all samples that a server shows after some work, and the labels of each."""
    async with running() as server:
        async with client(server.url, {"type": "start"}, b"hola..", "?", {"type": "stop"}) as speaker:
            await speaker.rest()
        server.metrics.refused.labels("unauthorized").inc()
        server.metrics.sink_captions.labels("hall", "sent").inc()
        families = list(server.metrics.registry.collect())
    found = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_every_query_is_answered(samples):
    assert len(queries()) > 20
    for query in queries():
        names = _METRIC.findall(query)
        assert names
        for name in names:
            assert name in samples, query
        for labels in _BY.findall(query):
            wanted = {label.strip() for label in labels.split(",") if label.strip()}
            assert wanted <= set().union(*(samples[name] for name in names)), query
        assert query.count("(") == query.count(")")


async def test_every_metric_is_shown(samples):
    asked = set(_METRIC.findall(" ".join(queries())))
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    there = {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples if not name.endswith("_created")}

    assert there == shown
    written = {re.sub(r"_sum$", "", name) for name in _METRIC.findall(OPERATIONS.read_text("utf-8"))}
    assert written == shown


def test_no_two_panels_overlap():
    taken = set()
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
