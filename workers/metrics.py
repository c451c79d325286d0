"""What the server counts, in Prometheus' conventions, and the latency that a client is told."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from workers.autoscale import Forecast
from workers.pump import Pump

RECENT_FINALS, RECENT_SECONDS = 256, 10.0
"""How many finals, of how many last seconds, tell how the server is doing."""

_LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_HOP_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.016, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """Metrics of one server, in a registry of their own.

    No label ever holds a stream's id, audio or text.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.streams = Gauge("surtitle_streams", "Streams that run now.", registry=self.registry)
        self.load = Gauge(
            "surtitle_load",
            "Share of this server's places for streams that will be wanted by the time another one is ready.",
            registry=self.registry,
        )
        self.viewers = Gauge("surtitle_viewers", "Viewers connected now.", registry=self.registry)
        self.started = Counter("surtitle_streams_started", "Streams started.", registry=self.registry)
        self.resumes = Counter("surtitle_resumes", "Streams resumed.", registry=self.registry)
        self.taken_over = Counter(
            "surtitle_streams_taken_over", "Streams taken over from other gateways.", registry=self.registry
        )
        self.ledger_up = Gauge(
            "surtitle_ledger_up",
            "1 while the ledger that gateways share answers; 0 where there is none.",
            registry=self.registry,
        )
        self.errors = Counter(
            "surtitle_errors", "Error events sent, by code.", ["code"], registry=self.registry
        )
        self.refused = Counter(
            "surtitle_requests_refused",
            "Requests that were not let in, by reason.",
            ["code"],
            registry=self.registry,
        )
        self.dropped = Counter(
            "surtitle_slow_readers_dropped",
            "Connections closed because they read too slowly.",
            registry=self.registry,
        )
        self._fleets = {
            name: Gauge(f"surtitle_{name}", f"{help_}, by kind.", ["stage"], registry=self.registry)
            for name, help_ in (
                ("workers", "Workers that are alive"),
                ("workers_narrowed", "Workers that use a sub-model narrower than the whole"),
                ("worker_load_ratio", "Share of the time that the busiest worker was busy lately"),
                ("places_free", "Places for streams that are free"),
                ("requests_waiting", "Requests that wait for a worker or for its answer"),
            )
        }
        # Moments and latencies of the last finals.
        self._latencies: deque[tuple[float, float]] = deque(maxlen=RECENT_FINALS)
        self.lost = Counter(
            "surtitle_workers_lost",
            "Workers that died or stopped answering, by kind.",
            ["stage"],
            registry=self.registry,
        )
        self.moved = Counter(
            "surtitle_streams_moved",
            "Times that a stream went on on another worker because its own was lost.",
            ["stage"],
            registry=self.registry,
        )
        self.sink_captions = Counter(
            "surtitle_sink_captions",
            "Captions for sinks by what became of them: sent, refused, late, dropped.",
            ["sink", "outcome"],
            registry=self.registry,
        )
        self.audio_seconds = Counter(
            "surtitle_audio_received_seconds", "Audio received.", registry=self.registry
        )
        self.final_latency = Histogram(
            "surtitle_final_latency_seconds",
            "From the arrival of an utterance's last audio to its final translation.",
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "surtitle_batch_requests",
            "Requests in one call to a worker.",
            ["stage"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self._call_seconds = Histogram(
            "surtitle_call_duration_seconds",
            "Time from a call to a worker to its reply.",
            ["stage"],
            buckets=(0.001, 0.003, 0.01, 0.03, *_LATENCY_BUCKETS),
            registry=self.registry,
        )
        self._step_seconds = Histogram(
            "surtitle_step_duration_seconds",
            "Time that a worker was busy with one call.",
            ["stage"],
            buckets=(0.001, 0.003, 0.01, 0.03, *_LATENCY_BUCKETS),
            registry=self.registry,
        )

        self._hop_seconds = Histogram(
            "surtitle_hop_duration_seconds",
            "Time that a call to a worker and its reply were on the way, without the time in the worker.",
            ["stage"],
            buckets=_HOP_BUCKETS,
            registry=self.registry,
        )

    def observe_call(self, stage: str, requests: int, seconds: float, away: float, way: float) -> None:
        """Count a call to a worker of ``stage``: ``encoder`` or ``decoder``.

        Args:
            stage: which.
            requests: in the call.
            seconds: that the worker was busy with it and with others at the same time.
            away: seconds from the call to its reply.
            way: how many of those went by on the way there and back.
        """
        self._batch_size.labels(stage).observe(requests)
        self._step_seconds.labels(stage).observe(seconds)
        self._call_seconds.labels(stage).observe(away)
        self._hop_seconds.labels(stage).observe(max(0.0, way))

    def observe_final(self, latency: float) -> None:
        """Count a final translation that came ``latency`` seconds behind its utterance."""
        self.final_latency.observe(latency)
        self._latencies.append((time.monotonic(), latency))

    def recent_latency(self) -> float:
        """95th percentile of the last seconds' final latencies; 0 when there were none."""
        since = time.monotonic() - RECENT_SECONDS
        recent = sorted(latency for moment, latency in self._latencies if moment >= since)
        return _percentile(recent, 0.95) if recent else 0.0

    def watch(self, stage: str, pumps: Sequence[Pump]) -> None:
        """Show the state of the workers of a stage."""
        shown: dict[str, Callable[[], float]] = {
            "workers": lambda: sum(pump.alive for pump in pumps),
            "workers_narrowed": lambda: sum(pump.widths != pump.ladder[0] for pump in pumps),
            "worker_load_ratio": lambda: max(pump.load for pump in pumps),
            "places_free": lambda: sum(pump.credits for pump in pumps if not pump.spare),
            "requests_waiting": lambda: sum(pump.waiting for pump in pumps),
        }
        for name, value in shown.items():
            self._fleets[name].labels(stage).set_function(value)

    def forecast(self, forecast: Forecast, clock: Callable[[], float] = time.monotonic) -> None:
        """Have ``surtitle_load`` tell, whenever somebody looks, what a forecast makes of the streams."""

        def load() -> float:
            refused = self.errors.labels("at_capacity")
            return forecast.observe(clock(), _value(self.streams), _value(refused))

        self.load.set_function(load)

    def exposition(self) -> str:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()


def _value(metric: Gauge | Counter) -> float:
    return next(sample.value for family in metric.collect() for sample in family.samples)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """By nearest rank."""
    return ordered[math.ceil(share * len(ordered)) - 1]


class Latencies:
    """Time from the arrival of an utterance's last audio to its final translation, of one stream.

    Args:
        arrivals: moments of arrival that are remembered; with 100 ms frames, 1,024 are the last
            100 seconds.
        finals: latencies that the summary covers.
    """

    def __init__(self, arrivals: int = 1024, finals: int = 10_000) -> None:
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=arrivals)
        self._finals: deque[float] = deque(maxlen=finals)

    def received(self, audio_time: float, now: float) -> None:
        """Remember that audio up to ``audio_time`` had arrived at ``now``; both in seconds."""
        self._arrivals.append((audio_time, now))

    def final(self, end: float, now: float) -> float:
        """Count the final of an utterance that ended at ``end`` of the audio; returns its latency."""
        arrived = next((moment for audio_time, moment in self._arrivals if audio_time >= end), now)
        latency = max(0.0, now - arrived)
        self._finals.append(latency)
        return latency

    def summary(self) -> dict[str, float]:
        """Percentiles (nearest rank) in seconds, and how many finals they are of."""
        if not self._finals:
            return {"finals": 0}
        ordered = sorted(self._finals)
        return {
            "finals": len(ordered),
            "final_p50": round(_percentile(ordered, 0.50), 3),
            "final_p95": round(_percentile(ordered, 0.95), 3),
        }
