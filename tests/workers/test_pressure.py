"""Under pressure a worker first goes on in narrower sub-models; then streams are refused."""

from __future__ import annotations

import pytest

from tests.workers.conftest import client, running
from tests.workers.doubles import SpellingDecoder, load_decoder, load_encoder
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.fleet import Fleet
from workers.pressure import Pressure
from workers.protocols import Loaded
from workers.pump import Pump

LADDER = (None, (8, 4), (4, 4))


class Narrowing(DecoderWorker):
    """A decoder that can be narrowed, and notes to what."""

    def __init__(self, **options):
        self.opened = []
        plain = load_decoder()

        def open_stream(config):
            self.opened.append(SpellingDecoder(config))
            return self.opened[-1]

        super().__init__(lambda: Loaded(open_stream, plain.carry_out, LADDER), **options)


async def pressed(worker, **options):
    pump = Pump("worker", worker, tick=0.0)
    await pump.start()
    fleet = Fleet([pump], **options)
    return pump, fleet, Pressure(fleet, lambda: 0.0, target_load=options.get("target_load", 0.0))


async def busy(pump, pressure, share, times):
    for _ in range(times):
        pump.busy_seconds += share
        await pressure.measure(1.0)


async def test_load_is_measured_whatever_is_done_about_it():
    pump, _, pressure = await pressed(DecoderWorker(load_decoder, capacity=8))
    pump.credits = 4
    await busy(pump, pressure, 0.6, 30)

    assert pump.load == pytest.approx(0.6, abs=0.01)
    assert pump.load_of_one == pytest.approx(0.15, abs=0.01)
    assert pump.widths is None


async def test_one_rung_after_the_other_and_back():
    pump, _, pressure = await pressed(Narrowing(), target_load=0.8)
    seen = []
    for share, times in ((1.0, 12), (0.7, 20), (0.1, 40)):
        for _ in range(times):
            await busy(pump, pressure, share, 1)
            if not seen or seen[-1] != pump.widths:
                seen.append(pump.widths)

    assert seen == [*LADDER, LADDER[1], None]


async def test_new_streams_are_refused_only_when_there_is_nothing_narrower():
    pump, fleet, pressure = await pressed(Narrowing(capacity=32), target_load=0.8)
    pump.credits = 31
    await busy(pump, pressure, 1.0, 2)
    assert fleet.take() is pump

    await busy(pump, pressure, 1.0, 20)
    assert pump.widths == LADDER[-1]
    assert fleet.take() is None
    assert fleet.take(spares=True) is pump  # who has lost his worker is taken in

    await busy(pump, pressure, 0.1, 10)
    assert fleet.take() is pump


async def test_streams_that_come_together_count_at_once():
    pump, fleet, pressure = await pressed(DecoderWorker(load_decoder, capacity=32), target_load=0.8)
    pump.credits = 30
    await busy(pump, pressure, 0.3, 30)  # 0.15 each

    taken = [fleet.take() for _ in range(6)]

    assert [one is not None for one in taken] == [True] * 3 + [False] * 3


async def test_without_a_limit_all_places_are_given():
    pump, fleet, pressure = await pressed(DecoderWorker(load_decoder, capacity=3))
    pump.credits = 2
    await busy(pump, pressure, 1.0, 20)

    assert [fleet.take() is pump for _ in range(3)] == [True, True, False]


async def test_clients_are_told_and_all_streams_go_along():
    decoder = Narrowing()
    start = {"type": "start", "partials": False}
    async with running(decoders=[decoder]) as server, client(server.url, start, b"ab") as speaker:
        await speaker.until("ready")
        pump = server.pool.decoders.pumps[0]
        await pump.narrow(LADDER[1])
        assert 'surtitle_workers_narrowed{stage="decoder"} 1.0' in server.metrics.exposition()
        await speaker.send(b"cd")
        told = (await speaker.until("status"))[-1]
        async with client(server.url, start, b"ab", {"type": "mark"}) as other:
            also = (await other.until("status"))[-1]
        await pump.narrow(None)
        await speaker.send(b"ef")
        again = (await speaker.until("status"))[-1]

    assert (told["action"], also["action"], again["action"]) == ("degraded", "degraded", "none")
    assert [state.widths for state in decoder.opened] == [None, None]


async def test_a_stream_beyond_capacity_is_told_when_to_come_again():
    async with running(encoders=[EncoderWorker(load_encoder)]) as server:
        server.pool.decoders._target_load = 0.8
        (pump,) = server.pool.decoders.pumps
        pump.load, pump.load_of_one = 0.75, 0.1
        async with client(server.url, {"type": "start"}) as speaker:
            (error,) = await speaker.rest()

    assert (error["code"], error["retry_after"], speaker.closed_with) == ("at_capacity", 5.0, 1013)
