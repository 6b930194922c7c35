"""What a query may see, as a description rather than an array."""

import functools
import operator
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

MASKED = -1e30
"""Score of a key that a query may not see, logit of a token that may not be chosen: finite, so that a row in which
everything is masked stays finite."""
EMPTY = 2**30
"""The position of a cache slot that holds nothing: later than any query, so that a causal mask hides it."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionMask:
    """Which keys each query may see; every condition that is given must hold.

    `causal` and `window` are static, so that a kernel can be chosen from them; positions default to 0, 1, 2, ...
    """

    causal: bool = field(default=False, metadata={"static": True})
    """A query sees keys at its own position and before."""
    window: tuple[int, int] | None = field(default=None, metadata={"static": True})
    """A query at p sees keys from p - left to p + right."""
    key_lengths: Int[Array, " batch"] | None = None
    """Right padding: only the first keys of each row are real."""
    query_positions: Int[Array, "batch query"] | None = None
    key_positions: Int[Array, "batch key"] | None = None
    query_segments: Int[Array, "batch query"] | None = None
    """Packing: a query sees the keys of its own segment."""
    key_segments: Int[Array, "batch key"] | None = None

    @property
    def is_structural(self) -> bool:
        """Whether positions are 0, 1, 2, ... and there are no segments: the rest of the description says it all."""
        return all(
            array is None
            for array in (self.query_positions, self.key_positions, self.query_segments, self.key_segments)
        )

    def array(self, query_length: int, key_length: int) -> Bool[Array, "#batch 1 #query #key"] | None:
        """True where the query may see the key, ready to broadcast over heads; None when everything is seen."""
        query = _positions(self.query_positions, query_length)[:, :, None]
        key = _positions(self.key_positions, key_length)[:, None, :]
        conditions = []
        if self.causal:
            conditions.append(key <= query)
        if self.window is not None:
            left, right = self.window
            conditions.append((query - left <= key) & (key <= query + right))
        if self.key_lengths is not None:
            conditions.append(jnp.arange(key_length)[None, None, :] < self.key_lengths[:, None, None])
        if self.query_segments is not None and self.key_segments is not None:
            conditions.append(self.query_segments[:, :, None] == self.key_segments[:, None, :])
        return functools.reduce(operator.and_, conditions)[:, None] if conditions else None


EVERYTHING = AttentionMask()
"""Every query sees every key."""


def _positions(positions: Array | None, length: int) -> Array:
    return jnp.arange(length, dtype=jnp.int32)[None] if positions is None else positions
