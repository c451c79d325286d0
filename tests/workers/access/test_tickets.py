"""Tickets are good once or for a while, for one thing."""

from __future__ import annotations

import pytest

from workers.access import tickets
from workers.access.identity import AccessError, Identity
from workers.access.tickets import SECONDS, Drawer, TicketOffice
from workers.protocols import WorkerLostError

BOTH = Identity("hall", "key 1", frozenset(("speak", "watch")))


class Clock:
    now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture(name="clock")
def _clock():
    return Clock()


async def test_a_ticket_to_speak_is_good_once(clock):
    office = TicketOffice(clock, Drawer(clock))
    ticket = await office.sell(BOTH, None)

    identity = await office.take(ticket.text)

    assert (identity.tenant, identity.name, identity.scopes) == ("hall", "key 1", {"speak"})
    with pytest.raises(AccessError, match="used up"):
        await office.take(ticket.text)


async def test_a_ticket_to_watch_is_good_for_a_while_and_one_stream(clock):
    office = TicketOffice(clock, Drawer(clock))
    ticket = await office.sell(BOTH, "abc")

    for _ in range(2):
        identity = await office.take(ticket.text)
        assert identity.may_watch("abc", "hall")
        assert not identity.may_watch("abd", "hall")
        assert not identity.may_watch("abc", "other")
        assert not identity.may_speak()
    clock.now += SECONDS
    with pytest.raises(AccessError) as refusal:
        await office.take(ticket.text)
    assert refusal.value.status == 401


@pytest.mark.parametrize(
    ("scopes", "stream"), [(("watch",), None), (("speak",), "abc"), (("watch:b",), "abc")]
)
async def test_nobody_sells_what_he_has_not(clock, scopes, stream):
    with pytest.raises(AccessError) as refusal:
        await TicketOffice(clock).sell(Identity("hall", "key 1", frozenset(scopes)), stream)

    assert refusal.value.status == 403


async def test_so_many_are_out_at_most(clock, monkeypatch):
    monkeypatch.setattr(tickets, "MOST", 3)
    office = TicketOffice(clock, Drawer(clock))
    for _ in range(3):
        await office.sell(BOTH, None)
    with pytest.raises(AccessError, match="too many"):
        await office.sell(BOTH, None)
    clock.now += SECONDS
    await office.sell(BOTH, None)


async def test_offices_with_one_shelf_take_each_others_tickets(clock):
    first, second = (TicketOffice(clock, shelf) for shelf in [Drawer(clock)] * 2)
    ticket = await first.sell(BOTH, None)

    assert (await second.take(ticket.text)).tenant == "hall"
    for office in (first, second):
        with pytest.raises(AccessError, match="used up"):
            await office.take(ticket.text)


async def test_a_shelf_holds_no_ticket_that_could_be_shown(clock):
    kept = {}

    class Shelf(Drawer):
        async def put_ticket(self, key, identity, seconds, *, once):
            kept[key] = identity
            return await super().put_ticket(key, identity, seconds, once=once)

    office = TicketOffice(clock, Shelf(clock))
    ticket = await office.sell(BOTH, None)

    (key,) = kept
    assert ticket.text not in key
    with pytest.raises(AccessError):
        await office.take(key)


async def test_while_the_shelf_is_away_nobody_is_let_in_by_tickets(clock):
    class Away(Drawer):
        async def put_ticket(self, *_, **__):
            raise WorkerLostError("away")

        take_ticket = put_ticket

    office = TicketOffice(clock, Away(clock))
    for doing in (office.sell(BOTH, None), office.take("x")):
        with pytest.raises(AccessError) as refusal:
            await doing
        assert (refusal.value.status, refusal.value.retry_after) == (503, 1.0)
