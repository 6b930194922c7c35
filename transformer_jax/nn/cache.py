"""Keys and values of the tokens seen so far, for decoding token by token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transformer_jax.nn.mask import EMPTY
from transformer_jax.parallel.axes import take_rows


class KeyValueCache(NamedTuple):
    """The keys and values of one attention layer, or of a stack of them along a leading axis.

    Each slot knows the position of its token, so that the mask follows from the cache.
    """

    key: Float[Array, "*layers batch capacity heads head_dim"]
    value: Float[Array, "*layers batch capacity heads head_dim"]
    positions: Int[Array, "*layers batch capacity"]
    """EMPTY where nothing has been written."""
    length: Int[Array, "*layers"]
    """Slots written so far. The next token goes to this one, in a full ring to the one with the oldest."""

    @classmethod
    def empty(cls, batch: int, capacity: int, num_heads: int, head_dim: int, dtype: str) -> "KeyValueCache":
        """A cache with room for `capacity` tokens."""
        zeros = jnp.zeros((batch, capacity, num_heads, head_dim), dtype)
        return cls(zeros, zeros, jnp.full((batch, capacity), EMPTY, jnp.int32), jnp.zeros((), jnp.int32))

    def append(
        self,
        key: Float[Array, "batch new heads head_dim"],
        value: Float[Array, "batch new heads head_dim"],
        positions: Int[Array, "batch new"],
        *,
        index: Int[Array, ""] | None = None,
    ) -> "KeyValueCache":
        """The cache with `new` tokens more, of a stack in the layer `index`.

        One token more than fits takes the place of the oldest; the caller sees to it that several fit.
        """
        written = self.length if index is None else self.length[index]
        end = written % self.positions.shape[-1] if key.shape[1] == 1 else written

        def write(old: Array, new: Array) -> Array:
            new, start = new.astype(old.dtype), (0, end) + (0,) * (new.ndim - 2)
            if index is None:
                return jax.lax.dynamic_update_slice(old, new, start)
            return jax.lax.dynamic_update_slice(old, new[None], (index, *start))

        length = written + key.shape[1]
        length = length if index is None else self.length.at[index].set(length)
        return KeyValueCache(write(self.key, key), write(self.value, value), write(self.positions, positions), length)

    def layer(self, index: Int[Array, ""] | None) -> "KeyValueCache":
        """One layer of a stack; None: the cache is one layer's already."""
        return self if index is None else jax.tree.map(lambda array: array[index], self)

    def replaced(self, layer: "KeyValueCache", index: Int[Array, ""] | None) -> "KeyValueCache":
        """The cache of a stack with another one for a layer."""
        return layer if index is None else jax.tree.map(lambda old, new: old.at[index].set(new), self, layer)

    def followed_by(
        self,
        key: Float[Array, "batch new heads head_dim"],
        value: Float[Array, "batch new heads head_dim"],
        positions: Int[Array, "batch new"],
    ) -> "KeyValueCache":
        """All slots from the oldest on and, behind them, `new` tokens: what queries see whose window the cache is."""
        oldest = self.length % self.positions.shape[-1]

        def join(old: Array, new: Array) -> Array:
            return jnp.concatenate([jnp.roll(old, -oldest, axis=1), new.astype(old.dtype)], axis=1)

        return KeyValueCache(
            join(self.key, key), join(self.value, value), join(self.positions, positions), self.length + key.shape[1]
        )

    def newest(self, capacity: int) -> "KeyValueCache":
        """The last `capacity` slots as a full ring: what a layer with a window keeps."""
        start = self.key.shape[1] - capacity
        full = jnp.full_like(self.length, capacity)
        return KeyValueCache(self.key[:, start:], self.value[:, start:], self.positions[:, start:], full)

    def take(self, rows: Int[Array, " rows"]) -> "KeyValueCache":
        """The cache whose row i is this one's row `rows[i]`, of the same device, in every layer of a stack of them."""
        axis = self.positions.ndim - 2
        key, value, positions = (take_rows(array, rows, axis=axis) for array in (self.key, self.value, self.positions))
        return KeyValueCache(key, value, positions, self.length)
