"""A Ledger keeps what gateways write, gives streams to one of them at a time, and forgets in time."""

from __future__ import annotations

import asyncio

from workers.access.identity import NOBODY
from workers.ledger import LINES, Ledger, Line, Title, Verdict, Write

TITLE = Title("hall", "token", b"about", 10.0)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def lines(*numbers, final=False, size=1):
    return tuple(Line(number, "x" * size, final) for number in numbers)


def whole(stream="s", epoch=1, numbers=(), **options):
    return Write(stream, epoch, lines(*numbers), TITLE, whole=True, **options)


async def write(ledger, *writes):
    return await ledger.write(writes)


async def test_what_was_written_can_be_read_and_claimed():
    ledger = Ledger()
    await write(ledger, whole(numbers=(1, 2), point=b"here"), Write("s", 1, lines(3)))

    assert [line.seq for line in (await ledger.read("s", 1, 0.0)).lines] == [2, 3]
    record = await ledger.claim("s", "token", "hall")
    assert ([line.seq for line in record.lines], record.point, record.epoch) == ([1, 2, 3], b"here", 2)
    assert record.title == TITLE


async def test_a_claim_fences_off_whoever_wrote_before():
    ledger = Ledger()
    await write(ledger, whole(numbers=(1,)))
    await ledger.claim("s", "token", "hall")

    assert await write(ledger, Write("s", 1, lines(2)), whole(numbers=(1, 2))) == [Verdict.FENCED] * 2
    assert await write(ledger, Write("s", 2, lines(2))) == [Verdict.WRITTEN]
    assert (await ledger.read("s", 0, 0.0)).lines == lines(1, 2)


async def test_a_claim_needs_token_and_tenant_and_does_nothing_without():
    ledger = Ledger()
    await write(ledger, whole())

    for who in (("s", "tokem", "hall"), ("s", "token", "other"), ("t", "token", "hall")):
        assert await ledger.claim(*who) is None
    assert await write(ledger, Write("s", 1, lines(1))) == [Verdict.WRITTEN]


async def test_the_whole_is_wanted_of_what_is_not_known():
    ledger = Ledger()

    assert await write(ledger, Write("s", 1, lines(5))) == [Verdict.UNKNOWN]
    await write(ledger, whole(numbers=(1, 2)))
    assert await write(ledger, Write("s", 1, lines(4))) == [Verdict.UNKNOWN]
    assert await write(ledger, Write("s", 1, lines(2, 3))) == [Verdict.WRITTEN]
    assert (await ledger.read("s", 0, 0.0)).lines == lines(1, 2, 3)


async def test_readers_wait_for_what_comes_also_when_everything_is_written_anew():
    ledger = Ledger()
    await write(ledger, whole(numbers=(1,)))
    waiting = [asyncio.create_task(ledger.read("s", 1, 20.0)) for _ in range(3)]
    await asyncio.sleep(0)
    await write(ledger, whole(epoch=2, numbers=(1, 2)))

    assert [(await task).lines for task in waiting] == [lines(2)] * 3
    assert (await ledger.read("s", 2, 0.0)).lines == ()


async def test_a_stream_is_forgotten_when_nobody_writes_any_more():
    clock = Clock()
    ledger = Ledger(clock=clock)
    await write(ledger, whole("s"), whole("t"))
    clock.now = 9.0
    await write(ledger, Write("t", 1))  # it is still there
    waiting = asyncio.create_task(ledger.read("s", 0, 20.0))
    await asyncio.sleep(0)
    clock.now = 11.0

    assert await ledger.read("t", 0, 0.0) is not None
    assert await ledger.read("s", 0, 0.0) is None
    assert await waiting is None


async def test_old_events_make_room_and_finals_stay():
    ledger = Ledger()
    await write(ledger, whole(), Write("s", 1, lines(1, 2, final=True)))
    await write(ledger, Write("s", 1, lines(*range(3, LINES + 11))))

    kept = (await ledger.read("s", 0, 0.0)).lines
    assert [line.seq for line in kept[:3]] == [1, 2, 11]
    assert len(kept) == LINES + 2
    await write(ledger, Write("s", 1, lines(LINES + 11, size=3_000_000)))
    assert [line.seq for line in (await ledger.read("s", 0, 0.0)).lines] == [1, 2, LINES + 11]


async def test_beyond_its_capacity_no_stream_is_taken():
    clock = Clock()
    ledger = Ledger(capacity=1_000, clock=clock)
    await write(ledger, whole("s"), Write("s", 1, lines(1, size=2_000)))

    assert await write(ledger, whole("t")) == [Verdict.FULL]
    assert await write(ledger, Write("s", 1, lines(2)), whole("s")) == [Verdict.WRITTEN] * 2
    assert await write(ledger, whole("t")) == [Verdict.WRITTEN]
    await write(ledger, Write("t", 1, lines(1, size=2_000)))
    clock.now = 11.0
    assert await write(ledger, whole("u")) == [Verdict.WRITTEN]


async def test_it_has_the_tickets_of_all_gateways_for_as_long_as_they_are_good():
    moment = [0.0]
    ledger = Ledger(clock=lambda: moment[0])
    for key, once in (("speak", True), ("watch", False)):
        assert await ledger.put_ticket(key, NOBODY, 60.0, once=once)

    assert [await ledger.take_ticket("watch") for _ in range(2)] == [NOBODY, NOBODY]
    assert [await ledger.take_ticket("speak") for _ in range(2)] == [NOBODY, None]
    moment[0] = 60.0
    assert await ledger.take_ticket("watch") is None
