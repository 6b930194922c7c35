"""Scaled dot-product attention and multi-head attention."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.divided import attend_divided, why_not_divided
from transformer_jax.nn.initializers import PAPER, Initializer
from transformer_jax.nn.kernels import AUTO, PLAIN, choose_kernel, fused_attention
from transformer_jax.nn.linear import Linear, dropout, side_by_side
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.positions import rotate
from transformer_jax.parallel.axes import constrain, devices_of

KEPT = 256
"""Keys up to which the backward pass keeps the weights of attention; of more they would be most of a step's memory."""
HIDDEN = -1e30
"""Score of a key that a query may not see: finite, so that a row with nothing to see has finite weights."""

KeysValues = tuple[Float[Array, "batch key kv_heads head_dim"], Float[Array, "batch key kv_heads head_dim"]]
Bias = Float[Array, "#batch heads query key"]


def attention_weights(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key kv_heads head_dim"],
    mask: AttentionMask,
    *,
    bias: Bias | None = None,
    soft_cap: float = 0.0,
) -> Float[Array, "batch heads query key"]:
    """`softmax(query key^T / sqrt(head_dim))` over the visible keys, in float32 (Vaswani et al. 2017, equation 1).

    Neighbouring query heads share a key head where there are fewer of those (Ainslie et al. 2023, "GQA"). A `bias` is
    added to the scores; with a `soft_cap` scores s become `cap * tanh(s / cap)` (Gemma 2, 2024, section 2).
    """
    key = jnp.repeat(key, query.shape[2] // key.shape[2], axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) / query.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    if soft_cap:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    seen = mask.array(query.shape[1], key.shape[1])
    return jax.nn.softmax(scores if seen is None else jnp.where(seen, scores, HIDDEN), axis=-1)


def dot_product_attention(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key kv_heads head_dim"],
    value: Float[Array, "batch key kv_heads head_dim"],
    mask: AttentionMask,
    *,
    bias: Bias | None = None,
    soft_cap: float = 0.0,
    dropout_rate: float = 0.0,
    dropout_key: PRNGKeyArray | None = None,
    kernel: str = AUTO,
) -> Float[Array, "batch query heads head_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1), as `attention_weights` has it.

    By the fused `kernel` that the device has and that can honour the mask (`nn/kernels.py`), else by the plain formula.
    That keeps weights of up to `KEPT` keys for the backward pass, those of more it computes again.
    """
    dropped = dropout_key is not None and dropout_rate > 0
    obstacle = "dropout on the weights" if dropped else "a positional bias" if bias is not None else ""
    obstacle = obstacle or why_not_divided(query, key)
    chosen = choose_kernel(kernel, query, key, mask, soft_cap=soft_cap, obstacle=obstacle)
    if chosen != PLAIN:
        return attend_divided(functools.partial(fused_attention, chosen, soft_cap=soft_cap), query, key, value, mask)
    attend = functools.partial(_attend, soft_cap=soft_cap, dropout_rate=dropout_rate)
    if key.shape[1] > KEPT:
        attend = jax.checkpoint(attend, prevent_cse=False)
    if devices_of("length") > 1 and not obstacle:
        return attend_divided(functools.partial(attend, bias=None, dropout_key=None), query, key, value, mask)
    key, value = (constrain(x, ("batch", "gathered", "heads", "head_dim")) for x in (key, value))
    return attend(query, key, value, mask, bias, dropout_key)


def _attend(
    query: Array,
    key: Array,
    value: Array,
    mask: AttentionMask,
    bias: Array | None,
    dropout_key: PRNGKeyArray | None,
    *,
    soft_cap: float,
    dropout_rate: float,
) -> Array:
    dropped = dropout_key is not None and dropout_rate > 0
    if dropped or soft_cap:
        weights = attention_weights(query, key, mask, bias=bias, soft_cap=soft_cap)
        weights = dropout(weights, dropout_rate, dropout_key).astype(value.dtype)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, jnp.repeat(value, query.shape[2] // value.shape[2], axis=2))
    described: dict[str, Any]
    # JAX 0.7 forgets a window that nothing else goes with.
    window_alone = mask.window is not None and not mask.causal and mask.key_lengths is None
    if mask.is_structural and not window_alone:
        described = {
            "is_causal": mask.causal,
            "local_window_size": mask.window,
            "key_value_seq_lengths": mask.key_lengths,
        }
    else:
        described = {"mask": mask.array(query.shape[1], key.shape[1])}
    bias = None if bias is None else bias.astype(query.dtype)
    return jax.nn.dot_product_attention(query, key, value, bias, **described)


class Attention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), without biases unless `use_bias`.

    `num_kv_heads` below `num_heads`: query heads share keys and values (GQA). `head_norm`, a norm class: queries and
    keys are normalised in each head (Henry et al. 2020, "QKNorm"), then rotated by their positions where there is a
    `rotary_base`. `dropout` acts on the attention weights. Raises ValueError for numbers of heads that do not divide.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        head_norm: Any = None,
        rotary_base: float | None = None,
        soft_cap: float = 0.0,
        use_bias: bool = False,
        dropout: float = 0.0,
        kernel: str = AUTO,
        dtype: str = "float32",
        to_memory: bool = False,
        initializer: Initializer = PAPER,
        rngs: nnx.Rngs,
    ):
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if head_dim is None and d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}")
        head_dim = d_model // num_heads if head_dim is None else head_dim
        linear = functools.partial(Linear, use_bias=use_bias, dtype=dtype, rngs=rngs)
        heads = {"query": num_heads, "key": num_kv_heads, "value": num_kv_heads}
        projections = tuple(number * head_dim for number in heads.values())
        draw = functools.partial(initializer.map, projections=projections, to_memory=to_memory)
        axes = ("embed", "heads", "head_dim")
        self.query, self.key, self.value = (
            linear((d_model,), (number, head_dim), axes, draw=functools.partial(draw, role=role))
            for role, number in heads.items()
        )
        residual = functools.partial(initializer.map, role="residual")
        self.output = linear((num_heads, head_dim), (d_model,), ("heads", "head_dim", "embed"), draw=residual)
        self.query_norm = None if head_norm is None else head_norm(head_dim, axis="head_dim")
        self.key_norm = None if head_norm is None else head_norm(head_dim, axis="head_dim")
        self.rotary_base = rotary_base
        self.soft_cap = soft_cap
        self.dropout = dropout
        self.kernel = kernel

    def __call__(
        self,
        x: Float[Array, "batch query d_model"],
        memory: Float[Array, "batch key d_model"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        positions: Int[Array, "#batch query"] | None = None,
        bias: Bias | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch query d_model"]:
        """Attends from `x` to `memory`, or to `x` itself; `key` turns dropout on.

        `positions` (default 0, 1, 2, ...) are those of `x`, for rotary heads.
        """
        looked_at = x if memory is None else memory
        if devices_of("heads") == 1:
            query, new_key, value = self.query(x), self.key(looked_at), self.value(looked_at)
        elif memory is None and self.query.kernel.shape == self.key.kernel.shape:
            query, new_key, value = side_by_side(x, (self.query, self.key, self.value))
        else:
            query, (new_key, value) = self.query(x), side_by_side(looked_at, (self.key, self.value))
        query, keys_values = (
            self._placed(query, self.query_norm, positions),
            self._keys_values(new_key, value, positions),
        )
        return self._attend(query, keys_values, mask, bias, key)

    def keys_values(
        self, memory: Float[Array, "batch key d_model"], positions: Int[Array, "#batch key"] | None = None
    ) -> KeysValues:
        """What queries look at: computed once where the memory does not change, kept in a cache while decoding."""
        return self._keys_values(self.key(memory), self.value(memory), positions)

    def attend(
        self,
        x: Float[Array, "batch query d_model"],
        keys_values: KeysValues,
        *,
        mask: AttentionMask,
        positions: Int[Array, "#batch query"] | None = None,
        bias: Bias | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch query d_model"]:
        """Attends from `x` to keys and values computed before."""
        return self._attend(self._queries(x, positions), keys_values, mask, bias, key)

    def weights(
        self,
        x: Float[Array, "batch query d_model"],
        memory: Float[Array, "batch key d_model"],
        *,
        mask: AttentionMask,
        positions: Int[Array, "#batch query"] | None = None,
        bias: Bias | None = None,
    ) -> Float[Array, "batch heads query key"]:
        """The attention weights alone, for looking at them."""
        key, _ = self.keys_values(memory, positions)
        return attention_weights(self._queries(x, positions), key, mask, bias=bias, soft_cap=self.soft_cap)

    def _attend(
        self,
        query: Float[Array, "batch query heads head_dim"],
        keys_values: KeysValues,
        mask: AttentionMask,
        bias: Bias | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch query d_model"]:
        mixed = dot_product_attention(
            constrain(query, ("batch", "length", "heads", "head_dim")),
            *keys_values,
            mask,
            bias=bias,
            soft_cap=self.soft_cap,
            dropout_rate=self.dropout,
            dropout_key=key,
            kernel=self.kernel,
        )
        return self.output(mixed)

    def _keys_values(
        self,
        key: Float[Array, "batch key kv_heads head_dim"],
        value: Float[Array, "batch key kv_heads head_dim"],
        positions: Int[Array, "#batch key"] | None,
    ) -> KeysValues:
        axes = ("batch", "length", "heads", "head_dim")
        return constrain(self._placed(key, self.key_norm, positions), axes), constrain(value, axes)

    def _queries(
        self, x: Float[Array, "batch query d_model"], positions: Int[Array, "#batch query"] | None
    ) -> Float[Array, "batch query heads head_dim"]:
        return self._placed(self.query(x), self.query_norm, positions)

    def _placed(
        self, x: Float[Array, "batch length heads head_dim"], norm: Any, positions: Int[Array, "#batch length"] | None
    ) -> Float[Array, "batch length heads head_dim"]:
        x = x if norm is None else norm(x)
        if self.rotary_base is None:
            return x
        positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None] if positions is None else positions
        return rotate(x, positions, self.rotary_base)
