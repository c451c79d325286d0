"""A trace of each utterance: what was done for it and for how long, and nothing of what was said."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs surtitle[otel]", exc_type=ImportError)

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pipeline.config import StreamConfig
from pipeline.speech import Silence, SpeechEnded, SpeechStarted
from pipeline.wire import events
from tests.workers.conftest import client, eventually, running
from workers.clock import unix_clock
from workers.eventlog import EventLog
from workers.ledger import Ledger
from workers.messages import Done, Failed, Flush, Push
from workers.published import Published
from workers.pump import Trip
from workers.tracing import Tracing, configured

START = {"type": "start", "targets": ["en", "fr"]}
STOP = {"type": "stop"}


@pytest.fixture(name="exporter")
def _exporter():
    return InMemorySpanExporter()


def traced(exporter, clock):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider, clock)


def utterances(exporter):
    """Of each utterance the root and its children, by the beginning of each."""
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    roots = [span for span in spans if span.parent is None]
    assert {span.name for span in roots} <= {"utterance"}
    children = {root.context.span_id: [] for root in roots}
    for span in spans:
        if span.parent is not None:
            children[span.parent.span_id].append(span)
    return [(root, children[root.context.span_id]) for root in roots]


async def test_an_utterance_is_traced_from_the_first_call_to_the_last_delivery(exporter):
    clock = unix_clock()
    before = clock()
    tracing = traced(exporter, clock)
    async with (
        running(ledger=Ledger(), tracing=tracing, clock=clock) as server,
        client(server.url, START, b"zebra.", b"yak.", STOP) as speaker,
    ):
        (stream,) = {event["stream_id"] for event in await speaker.rest()}

    first, second = utterances(exporter)
    for number, (root, children) in enumerate((first, second)):
        assert root.attributes["surtitle.stream"] == stream
        assert root.attributes["surtitle.utterance"] == number
        assert len({root.context.trace_id, *(child.context.trace_id for child in children)}) == 1
        names = [child.name for child in children]
        assert {"wait for decoder", "decode", "ledger", "deliver"} <= set(names)
        assert names.count("ledger") == names.count("deliver") == 3
        assert root.start_time == min(child.start_time for child in children)
        assert root.end_time == max(child.end_time for child in children)
        assert all(child.start_time <= child.end_time for child in children)
        delivered = [child for child in children if child.name == "deliver"]
        assert {child.attributes["surtitle.target"] for child in delivered} == {"", "en", "fr"}
        decoded = [child for child in children if child.name == "decode"]
        assert any(child.attributes["surtitle.final"] for child in decoded)
        for child in decoded:
            seconds = (child.end_time - child.start_time) / 1e9
            assert 0 < child.attributes["surtitle.inside_seconds"] <= seconds
    assert first[0].context.trace_id != second[0].context.trace_id
    assert before * 1e9 <= first[0].start_time <= second[0].end_time <= clock() * 1e9
    assert "encode" in [child.name for child in first[1]]


async def test_traces_hold_nothing_of_what_was_said(exporter):
    clock = unix_clock()
    async with (
        running(tracing=traced(exporter, clock), clock=clock) as server,
        client(server.url, START, b"zebra.", STOP) as speaker,
    ):
        assert "zebra" in json.dumps(await speaker.rest())

    told = "".join(span.to_json() for span in exporter.get_finished_spans()).lower()
    assert "decode" in told
    assert "zebra" not in told


def trip(request, asked, *items):
    return Trip(request, Done(items), asked, asked + 0.25, asked + 1.0, 0.5)


async def test_calls_that_heard_an_utterance_are_its_own_and_others_are_not(exporter):
    """The encoder is ahead, and both have had calls about silence before."""
    tracing = traced(exporter, asyncio.get_running_loop().time)
    stream = Published("s", StreamConfig(targets=("en",)), "hall", EventLog())
    tracing.follow(stream)
    heard = Push("s", (b"",))
    tracing.trip("encoder", trip(heard, 10, Silence(audio_time=0.0, time=5.0)))
    tracing.trip("decoder", trip(heard, 11))
    tracing.trip("encoder", trip(heard, 20, SpeechStarted(audio_time=0.0, time=6.0, margin=0.1)))
    tracing.trip("encoder", trip(heard, 30))
    tracing.trip("decoder", trip(heard, 31))
    tracing.trip("encoder", trip(heard, 40, SpeechEnded(audio_time=0.0, time=8.0, margin=0.1)))
    tracing.trip("encoder", trip(heard, 50, Silence(audio_time=0.0, time=9.0)))
    tracing.trip("encoder", trip(heard, 60, SpeechStarted(audio_time=0.0, time=10.0, margin=0.1)))
    about = {"utterance": 0, "start": 6.0, "end": 8.0, "stable": "x", "tentative": "", "final": True}
    final = events.Transcript(seq=1, server_time=70.0, **about)
    tracing.trip("decoder", trip(heard, 62, final))
    stream.log.append(final)
    stream.log.append(events.Translation(seq=2, server_time=70.0, target="en", **about))
    tracing.trip("elsewhere", Trip(Flush("another"), Failed("internal", ""), 0, 0, 0, 0))
    assert not exporter.get_finished_spans()
    await tracing.close()

    ((root, children),) = utterances(exporter)
    assert [(child.name, round(child.start_time / 1e9, 2)) for child in children] == [
        ("wait for encoder", 20.0),
        ("encode", 20.25),
        ("wait for encoder", 30.0),
        ("encode", 30.25),
        ("wait for decoder", 31.0),
        ("decode", 31.25),
        ("wait for encoder", 40.0),
        ("encode", 40.25),
        ("wait for decoder", 62.0),
        ("decode", 62.25),
    ]
    assert root.attributes["surtitle.audio_seconds"] == 2.0
    assert root.attributes["surtitle.tenant"] == "hall"


async def test_the_last_utterance_of_one_who_has_gone_is_told_too(exporter):
    """There is nobody to deliver to; a stream that is forgotten is done with."""
    clock = unix_clock()
    tracing = traced(exporter, clock)
    async with running(tracing=tracing, clock=clock) as server:
        async with client(server.url, START, b"zeb") as speaker:
            ready = (await speaker.until("transcript"))[0]
        stream = server.gateway.registry.get(ready["stream_id"])
        epoch = stream.attach()
        await stream.feed(b"ra.", epoch)

        async def said():
            return len(stream.translations) == 2

        await eventually(said)
        tracing.leave(stream)
    ((_, children),) = utterances(exporter)
    assert "deliver" not in [child.name for child in children]
    assert "decode" in [child.name for child in children]


@pytest.fixture(name="collector")
def _collector():
    """What was posted, and to where."""
    posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()
        thread.join()


async def test_traces_are_sent_to_where_the_environment_says(collector, monkeypatch):
    endpoint, posted = collector
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clock = unix_clock()
    async with (
        configured(environment, clock) as tracing,
        running(tracing=tracing, clock=clock) as server,
        client(server.url, START, b"zebra.", STOP) as speaker,
    ):
        await speaker.rest()

    assert {path for path, _ in posted} == {"/v1/traces"}
    resources = [
        resource
        for _, body in posted
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
    ]
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert "utterance" in {span.name for span in spans}
    about = {attribute.key: attribute.value.string_value for attribute in resources[0].resource.attributes}
    assert about["service.name"] == "surtitle"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    ],
)
async def test_nothing_is_traced_unless_it_is_asked_for(environment, caplog):
    async with configured(environment, unix_clock()) as tracing:
        assert tracing is None
    assert not caplog.records


async def test_the_server_runs_without_the_packages_and_says_what_is_missing(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    async with configured({"OTEL_TRACES_EXPORTER": "otlp"}, unix_clock()) as tracing:
        assert tracing is None
    assert "surtitle[otel]" in caplog.text


async def test_an_exporter_that_is_not_known_is_no_reason_to_stand_still(caplog):
    async with configured({"OTEL_TRACES_EXPORTER": "zipkin"}, unix_clock()) as tracing:
        assert tracing is None
    assert "otlp, console, none" in caplog.text
