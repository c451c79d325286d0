"""A stream keeps its seat when workers are lost, and one that kills them takes no other with it for long."""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import asynccontextmanager

import pytest

from pipeline.config import StreamConfig
from pipeline.wire.events import Transcript
from tests.workers.doubles import END, letters, listening, load_decoder, load_encoder, loaded
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.fleet import Fleet
from workers.messages import Flush, Push, Update
from workers.protocols import StreamError, WorkerLostError
from workers.pump import Pump
from workers.seat import ATTEMPTS, Seat
from workers.told import Told

CONFIG = StreamConfig()


class Mortal:
    """Dies with a request when told to, and forgets everything; ``deadly`` items kill it always."""

    deadly = frozenset()
    dies = False
    deaths = 0

    async def step(self, batch):
        deadly = any(isinstance(request, Push) and self.deadly & set(request.items) for request in batch)
        if self.dies or deadly:
            self.dies = False
            self.deaths += 1
            raise WorkerLostError("killed")
        return await super().step(batch)


class MortalEncoder(Mortal, EncoderWorker):
    def __init__(self):
        super().__init__(load_encoder)


class MortalDecoder(Mortal, DecoderWorker):
    def __init__(self):
        super().__init__(load_decoder)


@asynccontextmanager
async def manned(workers):
    pumps = [Pump(f"worker {number}", worker, tick=0.0) for number, worker in enumerate(workers)]
    for pump in pumps:
        await pump.start()
    tasks = [asyncio.create_task(pump.run()) for pump in pumps]
    try:
        yield Fleet(pumps)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def seated(fleet, name="a", **options):
    seat = Seat(fleet, name, CONFIG, **options)
    await seat.take()
    return seat


@pytest.mark.parametrize("seed", [secrets.randbits(32) for _ in range(5)])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_what_comes_out_is_as_if_no_worker_had_died(seed, count):
    rng = random.Random(seed)
    pieces = [rng.choice([b"a", b"bc", b"d.", b".", b"e.f"]) for _ in range(60)]
    workers, moves = [MortalEncoder() for _ in range(count)], []
    async with manned(workers) as fleet:
        seat, heard = await seated(fleet, moved=lambda: moves.append(1)), []
        for number, piece in enumerate(pieces):
            if number == 30 or rng.random() < 0.2:
                for worker in workers:
                    worker.dies = number == 30 or rng.random() < 0.5
            heard += (await seat.request(Push("a", (piece,)))).items
        heard += (await seat.request(Flush("a"))).items

    text = b"".join(pieces).decode()
    expected = [END if letter == "." else ("letter", letter) for letter in text]
    assert heard == expected + ([] if text.endswith(".") else [END])
    assert moves


async def test_settings_and_numbers_of_utterances_move_along():
    """Also a refused change, which is refused again."""
    workers = [MortalDecoder(), MortalDecoder()]
    async with manned(workers) as fleet:
        seat = await seated(fleet, shown=lambda: (1, {"": "d"}, ""))
        await seat.request(Push("a", (*letters("uno"), END)))
        await seat.request(Update("a", targets=("fr",)))
        await seat.request(Push("a", letters("d")))
        assert not (await seat.request(Update("a", targets=("xx",)))).lost
        for worker in workers:
            worker.dies = True
        outcome = await seat.request(Push("a", (*letters("os"), END)))

    texts = [(event.utterance, event.stable) for event in outcome.items if event.final]
    assert texts == [(1, "dos"), (1, "fr:DOS")]


async def test_a_language_that_has_been_told_moves_along():
    """Whatever the other worker would have found."""

    class MortalListener(Mortal, DecoderWorker):
        pass

    listener = listening("es", "en")
    workers, told = [MortalListener(lambda: loaded(listener)) for _ in range(2)], Told()
    async with manned(workers) as fleet:
        seat = await seated(fleet, shown=lambda: (told.utterances, told.shown, told.language))
        for event in (await seat.request(Push("a", letters("d")))).items:
            told.note(event)
        for worker in workers:
            worker.dies = True
        outcome = await seat.request(Push("a", (*letters("os"), END)))

    heard = [event for event in outcome.items if isinstance(event, Transcript)]
    assert [(event.stable, event.language) for event in heard] == [("do", "es"), ("dos", "es"), ("dos", "es")]


async def test_a_stream_without_a_place_is_refused():
    worker = EncoderWorker(load_encoder, capacity=1)
    async with manned([worker]) as fleet:
        await seated(fleet, "a")
        with pytest.raises(StreamError) as refusal:
            await seated(fleet, "b")

    assert refusal.value.code == "at_capacity"


async def test_a_stream_that_kills_its_workers_ends_and_no_other():
    class Fragile(MortalEncoder):
        deadly = frozenset((b"?",))

    workers = [Fragile() for _ in range(2)]
    async with manned(workers) as fleet:
        poisoned = await seated(fleet, "poison")
        others = [await seated(fleet, f"good {number}") for number in range(6)]

        async def speak(seat, name):
            heard = []
            for letter in "hola.":
                heard += (await seat.request(Push(name, (letter.encode(),)))).items
            return heard

        results = await asyncio.gather(
            poisoned.request(Push("poison", (b"?",))),
            *(speak(seat, f"good {number}") for number, seat in enumerate(others)),
            return_exceptions=True,
        )

    assert isinstance(results[0], WorkerLostError)
    assert results[1:] == [[*letters("hola"), END]] * 6
    assert sum(worker.deaths for worker in workers) == 1 + ATTEMPTS


async def test_a_poisoned_stream_that_raises_ends_at_once():
    """A fault inside a worker that lives on is no reason to try another."""
    async with manned([EncoderWorker(load_encoder), EncoderWorker(load_encoder)]) as fleet:
        seat = await seated(fleet)
        outcome = await seat.request(Push("a", (b"?",)))

    assert (outcome.code, outcome.lost) == ("internal", True)
