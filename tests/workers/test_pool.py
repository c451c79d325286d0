"""run_pool starts all workers and carries requests to them."""

from __future__ import annotations

import pytest

from pipeline.config import StreamConfig
from pipeline.errors import CheckpointError
from tests.workers.doubles import load_decoder, load_encoder
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.messages import Done, Open
from workers.metrics import Metrics
from workers.pool import run_pool


async def test_every_worker_is_reached():
    encoders = [EncoderWorker(load_encoder), EncoderWorker(load_encoder)]
    decoders = [DecoderWorker(load_decoder)]
    metrics = Metrics()

    async with run_pool(encoders, decoders, metrics) as pool:
        pumps = [*pool.encoders.pumps, *pool.decoders.pumps]
        outcomes = [await pump.request(Open("a", StreamConfig())) for pump in pumps]

    assert outcomes == [Done()] * 3
    assert [pump.name for pump in pumps] == ["encoder 0", "encoder 1", "decoder 0"]
    assert [(await worker.stats()).streams for worker in (*encoders, *decoders)] == [1, 1, 1]
    text = metrics.exposition()
    assert 'surtitle_batch_requests_count{stage="encoder"} 2.0' in text
    assert 'surtitle_batch_requests_count{stage="decoder"} 1.0' in text


async def test_a_worker_that_cannot_load_stops_the_start():
    def load():
        raise CheckpointError("no such model")

    with pytest.raises(CheckpointError, match="no such model"):
        async with run_pool([EncoderWorker(load_encoder)], [DecoderWorker(load)], Metrics()):
            pytest.fail("started")
