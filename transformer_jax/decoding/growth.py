"""Caches that grow with the texts, since few texts need the room that the longest one allowed would."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from transformer_jax.nn.cache import KeyValueCache

Grow = Callable[[Any, int], Any]
"""The cache with room for so many generated tokens. It is called with each later one of `rooms`, in order, when texts
reach the end of the one before."""

ROOM = 64
"""Generated tokens for which a cache that grows has room at first."""
GROWTH = 4
"""By how much it grows, at least."""


def growing(start_cache: Callable[[int], Any], capacity: int) -> tuple[Any, Grow]:
    """A cache with the first of its `rooms`, and the function that gives it the next.

    `start_cache(room)` makes a model's empty cache with room for so many generated tokens.
    """
    return start_cache(rooms(capacity)[0]), partial(with_slots, start_cache)


def rooms(capacity: int) -> tuple[int, ...]:
    """For how many generated tokens a growing cache has room, one size after another; the last is `capacity`.

    Every step reads the whole cache and, with a beam, moves it. Each size is a step of its own to compile, so none is
    more than a quarter of the next. While a cache grows, the old one and the new one are in memory.
    """
    sizes: list[int] = []
    room = ROOM
    while room * GROWTH <= capacity:
        sizes.append(room)
        room *= GROWTH
    return (*sizes, capacity)


def room_for(tokens: int, capacity: int) -> int:
    """The first of `rooms` that so many generated tokens fit in, or the last."""
    return next((room for room in rooms(capacity) if room >= tokens), capacity)


def with_slots(start_cache: Callable[[int], Any], cache: Any, size: int) -> Any:
    """What a model's cache holds, in as many slots as `start_cache(size)` has, which are no fewer in any layer."""
    return jax.tree.map(
        lambda old, new: old.widened(new.positions.shape[-1]) if isinstance(old, KeyValueCache) else old,
        cache,
        jax.eval_shape(lambda: start_cache(size)),
        is_leaf=lambda node: isinstance(node, KeyValueCache),
    )
