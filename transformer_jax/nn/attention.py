"""Scaled dot-product attention and multi-head attention."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.nn.linear import Linear, dropout
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.parallel.axes import constrain

HIDDEN = -1e30
"""Score of a key that a query may not see: finite, so that a row with nothing to see has finite weights."""

KeysValues = tuple[Float[Array, "batch key heads head_dim"], Float[Array, "batch key heads head_dim"]]


def attention_weights(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key heads head_dim"],
    mask: AttentionMask,
) -> Float[Array, "batch heads query key"]:
    """`softmax(query key^T / sqrt(head_dim))` over the visible keys, in float32 (Vaswani et al. 2017, equation 1)."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) / query.shape[-1] ** 0.5
    seen = mask.array(query.shape[1], key.shape[1])
    return jax.nn.softmax(scores if seen is None else jnp.where(seen, scores, HIDDEN), axis=-1)


def dot_product_attention(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key heads head_dim"],
    value: Float[Array, "batch key heads head_dim"],
    mask: AttentionMask,
    *,
    dropout_rate: float = 0.0,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "batch query heads head_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1).

    Goes to JAX's own function, but for dropout on the weights, which that does not know. Where the mask follows from
    its description, the function gets that instead of a `[query, key]` array, so that it can choose a kernel.
    """
    if dropout_key is not None and dropout_rate > 0:
        weights = dropout(attention_weights(query, key, mask), dropout_rate, dropout_key)
        return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(value.dtype), value)
    described: dict[str, Any] = {"mask": mask.array(query.shape[1], key.shape[1])}
    if mask.is_structural:
        described = {
            "is_causal": mask.causal,
            "local_window_size": mask.window,
            "key_value_seq_lengths": mask.key_lengths,
        }
    return jax.nn.dot_product_attention(query, key, value, **described)


class Attention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), without biases unless `use_bias`.

    `dropout` acts on the attention weights. Raises ValueError when num_heads does not divide d_model.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        use_bias: bool = False,
        dropout: float = 0.0,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        if d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        heads = (num_heads, d_model // num_heads)
        linear = functools.partial(Linear, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.query = linear((d_model,), heads, ("embed", "heads", "head_dim"))
        self.key = linear((d_model,), heads, ("embed", "heads", "head_dim"))
        self.value = linear((d_model,), heads, ("embed", "heads", "head_dim"))
        self.output = linear(heads, (d_model,), ("heads", "head_dim", "embed"))
        self.dropout = dropout

    def __call__(
        self,
        x: Float[Array, "batch query d_model"],
        memory: Float[Array, "batch key d_model"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch query d_model"]:
        """Attends from `x` to `memory`, or to `x` itself; `key` turns dropout on."""
        return self.attend(x, self.keys_values(x if memory is None else memory), mask=mask, key=key)

    def keys_values(self, memory: Float[Array, "batch key d_model"]) -> KeysValues:
        """What queries look at: computed once where the memory does not change, kept in a cache while decoding."""
        axes = ("batch", "length", "heads", "head_dim")
        return constrain(self.key(memory), axes), constrain(self.value(memory), axes)

    def attend(
        self,
        x: Float[Array, "batch query d_model"],
        keys_values: KeysValues,
        *,
        mask: AttentionMask,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch query d_model"]:
        """Attends from `x` to keys and values computed before."""
        query = constrain(self.query(x), ("batch", "length", "heads", "head_dim"))
        mixed = dot_product_attention(query, *keys_values, mask, dropout_rate=self.dropout, dropout_key=key)
        return self.output(mixed)

    def weights(
        self,
        x: Float[Array, "batch query d_model"],
        memory: Float[Array, "batch key d_model"],
        *,
        mask: AttentionMask,
    ) -> Float[Array, "batch heads query key"]:
        """The attention weights alone, for looking at them."""
        return attention_weights(self.query(x), self.key(memory), mask)
