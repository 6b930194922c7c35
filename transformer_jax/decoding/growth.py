"""Caches that grow with the texts, since few texts need the room that the longest one allowed would."""

from collections.abc import Callable
from typing import Any

Grow = Callable[[Any, int], Any]
"""The cache with room for so many generated tokens."""

ROOM = 64
"""Generated tokens for which a cache that grows has room at first."""


def rooms(capacity: int) -> tuple[int, ...]:
    """For how many generated tokens a growing cache has room, one size after another; the last is `capacity`.

    Every step reads the whole cache and, with a beam, moves it. Each size is a program of its own to compile.
    """
    sizes, room = list[int](), ROOM
    while room * 3 // 2 < capacity:
        sizes, room = [*sizes, room], room * 2
    return (*sizes, capacity)
