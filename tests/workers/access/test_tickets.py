"""Tickets are good once or for a while, for one thing."""

from __future__ import annotations

import pytest

from workers.access import tickets
from workers.access.identity import AccessError, Identity
from workers.access.tickets import SECONDS, TicketOffice

BOTH = Identity("hall", "key 1", frozenset(("speak", "watch")))


class Clock:
    now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture(name="clock")
def _clock():
    return Clock()


def test_a_ticket_to_speak_is_good_once(clock):
    office = TicketOffice(clock)
    ticket = office.sell(BOTH, None)

    identity = office.take(ticket.text)

    assert (identity.tenant, identity.name, identity.scopes) == ("hall", "key 1", {"speak"})
    with pytest.raises(AccessError, match="used up"):
        office.take(ticket.text)


def test_a_ticket_to_watch_is_good_for_a_while_and_one_stream(clock):
    office = TicketOffice(clock)
    ticket = office.sell(BOTH, "abc")

    for _ in range(2):
        identity = office.take(ticket.text)
        assert identity.may_watch("abc", "hall")
        assert not identity.may_watch("abd", "hall")
        assert not identity.may_watch("abc", "other")
        assert not identity.may_speak()
    clock.now += SECONDS
    with pytest.raises(AccessError) as refusal:
        office.take(ticket.text)
    assert refusal.value.status == 401


@pytest.mark.parametrize(
    ("scopes", "stream"), [(("watch",), None), (("speak",), "abc"), (("watch:b",), "abc")]
)
def test_nobody_sells_what_he_has_not(clock, scopes, stream):
    with pytest.raises(AccessError) as refusal:
        TicketOffice(clock).sell(Identity("hall", "key 1", frozenset(scopes)), stream)

    assert refusal.value.status == 403


def test_so_many_are_out_at_most(clock, monkeypatch):
    monkeypatch.setattr(tickets, "MOST", 3)
    office = TicketOffice(clock)
    for _ in range(3):
        office.sell(BOTH, None)
    with pytest.raises(AccessError, match="too many"):
        office.sell(BOTH, None)
    clock.now += SECONDS
    office.sell(BOTH, None)
