"""What the server counts, in Prometheus' conventions, and the latency that a client is told."""

from __future__ import annotations

import math
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Metrics:
    """Metrics of one server, in a registry of their own.

    No label ever holds a stream's id, audio or text.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.streams = Gauge("surtitle_streams", "Streams that run now.", registry=self.registry)
        self.viewers = Gauge("surtitle_viewers", "Viewers connected now.", registry=self.registry)
        self.started = Counter("surtitle_streams_started", "Streams started.", registry=self.registry)
        self.resumes = Counter("surtitle_resumes", "Streams resumed.", registry=self.registry)
        self.errors = Counter(
            "surtitle_errors", "Error events sent, by code.", ["code"], registry=self.registry
        )
        self.dropped = Counter(
            "surtitle_slow_readers_dropped",
            "Connections closed because they read too slowly.",
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
        self._step_seconds = Histogram(
            "surtitle_step_duration_seconds",
            "Time that a worker was busy with one call.",
            ["stage"],
            buckets=(0.001, 0.003, 0.01, 0.03, *_LATENCY_BUCKETS),
            registry=self.registry,
        )

    def observe_call(self, stage: str, requests: int, seconds: float) -> None:
        """Count a call to a worker of ``stage``: ``encoder`` or ``decoder``."""
        self._batch_size.labels(stage).observe(requests)
        self._step_seconds.labels(stage).observe(seconds)

    def exposition(self) -> str:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()


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
            "final_p50": round(ordered[math.ceil(0.50 * len(ordered)) - 1], 3),
            "final_p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1], 3),
        }
