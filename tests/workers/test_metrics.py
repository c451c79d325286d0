"""Metrics have the names of Prometheus' conventions; Latencies are measured from arrival."""

from __future__ import annotations

from workers.metrics import Latencies, Metrics


def test_exposition():
    metrics = Metrics()
    metrics.streams.inc()
    metrics.errors.labels("bad_message").inc()
    metrics.observe_call("decoder", 3, 0.2, 0.2, 0.004)

    text = metrics.exposition()

    assert "surtitle_streams 1.0" in text
    assert 'surtitle_errors_total{code="bad_message"} 1.0' in text
    assert 'surtitle_batch_requests_sum{stage="decoder"} 3.0' in text
    assert 'surtitle_step_duration_seconds_bucket{le="0.2",stage="decoder"} 1.0' in text
    assert 'surtitle_hop_duration_seconds_bucket{le="0.003",stage="decoder"} 0.0' in text
    assert 'surtitle_hop_duration_seconds_bucket{le="0.005",stage="decoder"} 1.0' in text


def test_a_latency_counts_from_the_arrival_of_the_last_audio():
    latencies = Latencies()
    for tenth in range(1, 21):
        latencies.received(tenth / 10, 100 + tenth / 10)

    assert latencies.final(end=1.45, now=103.5) == 2.0  # 1.45 arrived with the audio up to 1.5
    assert latencies.final(end=1.5, now=101.0) == 0.0
    assert latencies.final(end=5.0, now=104.0) == 0.0


def test_the_summary_has_nearest_rank_percentiles():
    latencies = Latencies()
    latencies.received(1.0, 0.0)
    for hundredth in range(1, 101):
        latencies.final(end=1.0, now=hundredth / 100)

    assert latencies.summary() == {"finals": 100, "final_p50": 0.5, "final_p95": 0.95}
    assert Latencies().summary() == {"finals": 0}
