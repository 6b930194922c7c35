"""Scaled dot-product attention and multi-head attention."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.nn.cache import KeyValueCache
from transformer_jax.nn.initializers import PAPER, Initializer
from transformer_jax.nn.kernels import AUTO, PLAIN, choose_kernel, fused_attention
from transformer_jax.nn.linear import Linear, dropout, side_by_side
from transformer_jax.nn.mask import EVERYTHING, MASKED, AttentionMask
from transformer_jax.nn.positions import Bias, Placed
from transformer_jax.nn.sharded_attention import attend_by_shard, why_not_by_shard
from transformer_jax.parallel.axes import constrain, devices_of

STORED_KEYS = 256
"""Keys up to which weights are stored for the backward pass; of more they would be most of a step's memory."""

KeysValues = tuple[Float[Array, "rows key kv_heads head_dim"], Float[Array, "rows key kv_heads value_dim"]]
Weights = Float[Array, "rows heads queries key"]


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
    return jax.nn.softmax(scores if seen is None else jnp.where(seen, scores, MASKED), axis=-1)


def dot_product_attention(
    query: Float[Array, "batch query heads head_dim"],
    key: Float[Array, "batch key kv_heads head_dim"],
    value: Float[Array, "batch key kv_heads value_dim"],
    mask: AttentionMask,
    *,
    bias: Bias | None = None,
    soft_cap: float = 0.0,
    dropout_rate: float = 0.0,
    dropout_key: PRNGKeyArray | None = None,
    kernel: str = AUTO,
) -> Float[Array, "batch query heads value_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1), as `attention_weights` has it.

    Runs the fused `kernel` that the device has and that can honour the mask (`nn/kernels.py`), else the plain formula.
    That stores weights of up to `STORED_KEYS` keys for the backward pass, and recomputes those of more.
    """
    dropped = dropout_key is not None and dropout_rate > 0
    obstacle = "dropout on the weights" if dropped else "a positional bias" if bias is not None else ""
    obstacle = obstacle or ("values of another width" if value.shape[-1] != key.shape[-1] else "")
    obstacle = obstacle or why_not_by_shard(query, key)
    chosen = choose_kernel(kernel, query, key, mask, soft_cap=soft_cap, obstacle=obstacle)
    if chosen != PLAIN:
        return attend_by_shard(functools.partial(fused_attention, chosen, soft_cap=soft_cap), query, key, value, mask)
    attend = functools.partial(_attend, soft_cap=soft_cap, dropout_rate=dropout_rate)
    if key.shape[1] > STORED_KEYS:
        attend = jax.checkpoint(attend, prevent_cse=False)
    if devices_of("length") > 1 and not obstacle:
        return attend_by_shard(functools.partial(attend, bias=None, dropout_key=None), query, key, value, mask)
    key, value = (constrain(x, ("batch", "replicated", "heads", "head_dim")) for x in (key, value))
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
    if dropped or soft_cap or value.shape[-1] != key.shape[-1]:
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
    keys are normalised in each head (Henry et al. 2020, "QKNorm"), then turned by their positions. `scale` multiplies
    the scores in place of 1/sqrt(head_dim). `key_bias` and `output_bias` differ from `use_bias` where they are given.
    `dropout` acts on the attention weights. Raises ValueError for numbers of heads that do not divide.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        head_norm: Any = None,
        scale: float | None = None,
        soft_cap: float = 0.0,
        use_bias: bool = False,
        key_bias: bool | None = None,
        output_bias: bool | None = None,
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
        value_dim = head_dim if value_dim is None else value_dim
        shapes = {"query": (num_heads, head_dim), "key": (num_kv_heads, head_dim), "value": (num_kv_heads, value_dim)}
        biases = {"query": use_bias, "key": use_bias if key_bias is None else key_bias, "value": use_bias}
        projections = tuple(heads * width for heads, width in shapes.values())
        self.query, self.key, self.value = (
            Linear(
                (d_model,),
                shape,
                ("embed", "heads", "head_dim"),
                use_bias=biases[role],
                dtype=dtype,
                draw=functools.partial(initializer.map, role=role, projections=projections, to_memory=to_memory),
                rngs=rngs,
            )
            for role, shape in shapes.items()
        )
        self.output = Linear(
            (num_heads, value_dim),
            (d_model,),
            ("heads", "head_dim", "embed"),
            use_bias=use_bias if output_bias is None else output_bias,
            dtype=dtype,
            draw=functools.partial(initializer.map, role="residual"),
            rngs=rngs,
        )
        self.query_norm = None if head_norm is None else head_norm(head_dim, axis="head_dim")
        self.key_norm = None if head_norm is None else head_norm(head_dim, axis="head_dim")
        self.scale = scale
        self.soft_cap = soft_cap
        self.dropout = dropout
        self.kernel = kernel

    def __call__(
        self,
        x: Float[Array, "batch query d_model"],
        memory: Float[Array, "rows key d_model"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        placed: Placed | None = None,
        cache: KeyValueCache | KeysValues | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> tuple[Float[Array, "batch query d_model"], KeyValueCache | KeysValues | None, Weights | None]:
        """Attends from `x` to `memory`, or to `x` itself; returns the result, the cache and the weights.

        `placed` says where the tokens of `x` stand, in self-attention. A `KeyValueCache` holds the keys and values of
        the tokens before `x`, and gets those of `x`; it needs `placed`. The keys and values of a memory
        (`keys_values`) are a cache too, which stays as it is. `key` turns dropout on. The weights are returned with
        `intermediates` alone.
        """
        if isinstance(cache, tuple) and not isinstance(cache, KeyValueCache):
            query, (keys, values) = self.query(x), cache
        else:
            query, keys, values = self._projected(x, memory)
            keys = self._keys(keys, placed)
        query = self._turned(query, self.query_norm, placed)
        bias = None if placed is None else placed.bias()
        if isinstance(cache, KeyValueCache):
            if placed is None:
                raise ValueError("attention with a cache needs to know where its tokens stand: give placed")
            cache, seen = cache.extended(keys, values, placed.places, ring=mask.window is not None)
            keys, values, bias = seen.key, seen.value, placed.bias(seen.positions)
            places = jnp.broadcast_to(placed.places, x.shape[:2])
            mask = replace(mask, query_positions=places, key_positions=seen.positions)
        if self.scale is not None:
            query = query * (self.scale * query.shape[-1] ** 0.5)
        # Rows that share a memory (the hypotheses of a beam) become further queries of its one row.
        query = query.reshape(keys.shape[0], -1, *query.shape[2:])
        query = constrain(query, ("batch", "length", "heads", "head_dim"))
        mixed = dot_product_attention(
            query,
            keys,
            values,
            mask,
            bias=bias,
            soft_cap=self.soft_cap,
            dropout_rate=self.dropout,
            dropout_key=key,
            kernel=self.kernel,
        )
        weights = None
        if intermediates:
            weights = attention_weights(query, keys, mask, bias=bias, soft_cap=self.soft_cap)
        return self.output(mixed.reshape(*x.shape[:2], *mixed.shape[2:])), cache, weights

    def keys_values(self, memory: Float[Array, "rows key d_model"]) -> KeysValues:
        """The keys and values of a memory, computed once where it does not change."""
        return self._keys(self.key(memory), None), self.value(memory)

    def start_cache(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache for `capacity` tokens of each of `batch` sequences."""
        heads, head_dim, value_dim = *self.key.kernel.shape[-2:], self.value.kernel.shape[-1]
        return KeyValueCache.empty(batch, capacity, heads, head_dim, value_dim, self.key.dtype)

    def _projected(self, x: Array, memory: Array | None) -> tuple[Array, Array, Array]:
        """Queries of `x`, keys and values of the memory; in as few products as the devices that divide heads allow."""
        source = x if memory is None else memory
        if devices_of("heads") == 1:
            query, key, value = self.query(x), self.key(source), self.value(source)
        elif memory is None and self.query.kernel.shape[:-1] == self.key.kernel.shape[:-1]:
            query, key, value = side_by_side(x, (self.query, self.key, self.value))
        else:
            query, (key, value) = self.query(x), side_by_side(source, (self.key, self.value))
        return query, key, constrain(value, ("batch", "length", "heads", "head_dim"))

    def _keys(self, key: Array, placed: Placed | None) -> Array:
        return constrain(self._turned(key, self.key_norm, placed), ("batch", "length", "heads", "head_dim"))

    def _turned(self, x: Array, norm: Any, placed: Placed | None) -> Array:
        x = x if norm is None else norm(x)
        return x if placed is None else placed.turn(x)
