"""A bounded queue between the tasks of one stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """First in, first out, bounded by weight: whoever brings more than fits waits for room.

    Args:
        capacity: weight from which on there is no room.
        weigh: weight of an item; one of weight 0 always fits.
    """

    def __init__(self, capacity: int, weigh: Callable[[Item], int]) -> None:
        self._capacity = capacity
        self._weigh = weigh
        self._items: deque[Item] = deque()
        self._weight = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def weight(self) -> int:
        """Weight of all that waits."""
        return self._weight

    async def wait_for_room(self) -> None:
        """Wait until less than the capacity is taken."""
        await self._room.wait()

    def put(self, item: Item) -> None:
        """Append an item. Call :meth:`wait_for_room` before each, but for items that must not wait."""
        self._items.append(item)
        self._weight += self._weigh(item)
        self._filled.set()
        if self._weight >= self._capacity:
            self._room.clear()

    async def take(self, weight: int) -> list[Item]:
        """Wait for items; returns those in front, as many as weigh at most ``weight``, at least one."""
        await self._filled.wait()
        taken = [self._pop()]
        weight -= self._weigh(taken[0])
        while self._items and self._weigh(self._items[0]) <= weight:
            taken.append(self._pop())
            weight -= self._weigh(taken[-1])
        if not self._items:
            self._filled.clear()
        if self._weight < self._capacity:
            self._room.set()
        return taken

    def _pop(self) -> Item:
        item = self._items.popleft()
        self._weight -= self._weigh(item)
        return item
