"""Caches that grow with the texts, since few texts need the room that the longest one allowed would."""

from collections.abc import Callable
from typing import Any

Grow = Callable[[Any, int], Any]
"""The cache with room for so many generated tokens. It is called with every room of `rooms` but the first, in order."""

ROOM = 64
"""Generated tokens for which a cache that grows has room at first."""


def rooms(capacity: int) -> tuple[int, ...]:
    """For how many generated tokens a growing cache has room, one size after another; the last is `capacity`.

    Every step reads the whole cache and, with a beam, moves it. Each size is a step of its own to compile, so none is
    more than half of the capacity but the last. While a cache grows, the old one and the new one are in memory.
    """
    sizes, room = list[int](), ROOM
    while room * 2 <= capacity:
        sizes, room = [*sizes, room], room * 2
    return (*sizes, capacity)


def room_for(tokens: int, capacity: int) -> int:
    """The first of `rooms` that so many generated tokens fit in, or the last."""
    return next((room for room in rooms(capacity) if room >= tokens), capacity)
