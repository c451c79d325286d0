"""A Mailbox keeps order and weight."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from workers.mailbox import Mailbox


async def test_takes_as_much_as_fits_in_order():
    mailbox = Mailbox(100, len)
    for item in ("aaa", "bb", "c", "dddd"):
        mailbox.put(item)

    assert await mailbox.take(5) == ["aaa", "bb"]
    assert await mailbox.take(1) == ["c"]
    assert await mailbox.take(1) == ["dddd"]  # at least one, however heavy


async def test_a_full_mailbox_has_room_again_once_something_is_taken():
    mailbox = Mailbox(4, len)
    mailbox.put("aaaa")
    waiting = asyncio.create_task(mailbox.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()

    await mailbox.take(4)

    await waiting


async def test_take_waits_for_an_item():
    mailbox = Mailbox(4, len)
    taking = asyncio.create_task(mailbox.take(4))
    await asyncio.sleep(0)
    assert not taking.done()

    mailbox.put("a")

    assert await taking == ["a"]


@given(st.lists(st.text(max_size=5)), st.integers(0, 8))
def test_nothing_is_lost_or_reordered(items, weight):
    async def take_all():
        mailbox = Mailbox(10, len)
        for item in items:
            mailbox.put(item)
        taken = []
        while len(taken) < len(items):
            taken += await mailbox.take(weight)
        return taken, mailbox.weight

    assert asyncio.run(take_all()) == (items, 0)
