"""Keys and values of the tokens seen so far, for decoding token by token."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transformer_jax.nn.mask import EMPTY
from transformer_jax.parallel.axes import take_rows

NewKeys = Float[Array, "batch new heads head_dim"]
NewPositions = Int[Array, "#batch new"]
Rows = int | Any
"""How many rows an array has: a number, or what an exported program leaves open (`jax.export.symbolic_shape`)."""


class KeysValues(NamedTuple):
    """The keys and values of a memory, which stay the same from token to token."""

    key: Float[Array, "*layers rows key heads head_dim"]
    value: Float[Array, "*layers rows key heads value_dim"]


class KeyValueCache(NamedTuple):
    """The keys and values of the tokens so far: of one attention layer, or of several along a leading axis.

    Each slot knows the position of its token, so that the mask follows from the cache.
    """

    key: Float[Array, "*layers batch capacity heads head_dim"]
    value: Float[Array, "*layers batch capacity heads value_dim"]
    positions: Int[Array, "*layers batch capacity"]
    """EMPTY where nothing has been written."""
    length: Int[Array, "*layers"]
    """Slots written so far. The next token goes to this one, in a full ring to the one with the oldest."""
    index: Int[Array, ""] | None = None
    """The layer of a stack that is written and read; None: the cache is one layer's."""

    @classmethod
    def empty(
        cls, batch: Rows, capacity: int, num_heads: int, head_dim: int, value_dim: int, dtype: str
    ) -> "KeyValueCache":
        """A cache with room for `capacity` tokens."""
        key, value = (jnp.zeros((batch, capacity, num_heads, width), dtype) for width in (head_dim, value_dim))
        return cls(key, value, jnp.full((batch, capacity), EMPTY, jnp.int32), jnp.zeros((), jnp.int32))

    def extended(
        self, key: NewKeys, value: Float[Array, "batch new heads value_dim"], positions: NewPositions, *, ring: bool
    ) -> tuple["KeyValueCache", "KeyValueCache"]:
        """Appends the keys and values of `new` tokens; returns the cache, and one layer's keys and values to attend to.

        A `ring` keeps the tokens of a window alone. One new token takes the slot of the oldest; several are attended to
        behind the tokens that were in the cache, and then the newest are kept. A cache that is no ring must have room.
        """
        positions = jnp.broadcast_to(positions, key.shape[:2])
        if ring and key.shape[1] > 1:
            visible = self._layer()._followed_by(key, value, positions)
            return self._replaced(visible._newest(self.positions.shape[-1])), visible
        cache = self._appended(key, value, positions)
        return cache, cache._layer()

    def take(self, rows: Int[Array, " rows"]) -> "KeyValueCache":
        """The cache whose row i is this one's row `rows[i]`, of the same device, in every layer of a stack of them."""
        axis = self.positions.ndim - 2
        key, value, positions = (take_rows(array, rows, axis=axis) for array in (self.key, self.value, self.positions))
        return self._replace(key=key, value=value, positions=positions)

    def widened(self, capacity: int) -> "KeyValueCache":
        """The cache with `capacity` slots, at least as many as now."""
        slots = self.positions.shape[-1]
        if capacity == slots:
            return self

        def widen(old: Array, length: Array, empty: int) -> Array:
            # A full ring begins anywhere: the new slots belong behind the newest token, in front of the oldest.
            turned = jnp.roll(old, -jnp.where(length >= slots, length, 0), axis=1)
            return jnp.pad(turned, ((0, 0), (0, capacity - slots)) + ((0, 0),) * (old.ndim - 2), constant_values=empty)

        for _ in range(self.length.ndim):
            widen = jax.vmap(widen, (0, 0, None))
        key, value = widen(self.key, self.length, 0), widen(self.value, self.length, 0)
        positions, length = widen(self.positions, self.length, EMPTY), jnp.minimum(self.length, slots)
        return KeyValueCache(key, value, positions, length, self.index)

    def _appended(self, key: Array, value: Array, positions: Array) -> "KeyValueCache":
        index = self.index
        written = self.length if index is None else self.length[index]
        end = written % self.positions.shape[-1] if key.shape[1] == 1 else written

        def write(old: Array, new: Array) -> Array:
            new, start = new.astype(old.dtype), (0, end) + (0,) * (new.ndim - 2)
            if index is None:
                return jax.lax.dynamic_update_slice(old, new, start)
            return jax.lax.dynamic_update_slice(old, new[None], (index, *start))

        length = written + key.shape[1]
        length = length if index is None else self.length.at[index].set(length)
        parts = (write(self.key, key), write(self.value, value), write(self.positions, positions))
        return KeyValueCache(*parts, length, index)

    def _layer(self) -> "KeyValueCache":
        if self.index is None:
            return self
        return jax.tree.map(lambda array: array[self.index], self._replace(index=None))

    def _replaced(self, layer: "KeyValueCache") -> "KeyValueCache":
        if self.index is None:
            return layer
        changed = jax.tree.map(lambda old, new: old.at[self.index].set(new), self._replace(index=None), layer)
        return changed._replace(index=self.index)

    def _followed_by(self, key: Array, value: Array, positions: Array) -> "KeyValueCache":
        """All slots from the oldest on and, behind them, the new tokens."""
        oldest = self.length % self.positions.shape[-1]

        def join(old: Array, new: Array) -> Array:
            return jnp.concatenate([jnp.roll(old, -oldest, axis=1), new.astype(old.dtype)], axis=1)

        parts = (join(self.key, key), join(self.value, value), join(self.positions, positions))
        return KeyValueCache(*parts, self.length + key.shape[1])

    def _newest(self, capacity: int) -> "KeyValueCache":
        """The last `capacity` slots as a full ring."""
        start = self.key.shape[1] - capacity
        full = jnp.full_like(self.length, capacity)
        return KeyValueCache(self.key[:, start:], self.value[:, start:], self.positions[:, start:], full)
