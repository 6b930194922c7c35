"""Scaled dot-product attention and multi-head attention."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.nn.cache import KeysValues, KeyValueCache, Rows
from transformer_jax.nn.config import QUERY_KEY_NORMS, LayerConfig
from transformer_jax.nn.kernels import AUTO, PLAIN, choose_kernel, fused_attention
from transformer_jax.nn.linear import Linear, dropout, in_one_product
from transformer_jax.nn.mask import EVERYTHING, MASKED, AttentionMask
from transformer_jax.nn.positions import Bias, TokenPositions
from transformer_jax.nn.sharded_attention import attend_by_shard, why_not_by_shard
from transformer_jax.parallel.axes import constrain, num_shards

STORED_KEYS = 256
"""Keys up to which weights are stored for the backward pass; of more they would be most of a step's memory."""

Memory = Float[Array, "rows memory memory_dim"] | KeysValues
"""Vectors that are attended to, or their keys and values."""
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
    visible = mask.array(query.shape[1], key.shape[1])
    return jax.nn.softmax(scores if visible is None else jnp.where(visible, scores, MASKED), axis=-1)


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
    if num_shards("length") > 1 and not obstacle:
        return attend_by_shard(functools.partial(attend, bias=None, dropout_key=None), query, key, value, mask)
    key, value = (constrain(x, ("batch", "replicated", "heads", "head_dim")) for x in (key, value))
    return attend(query, key, value, mask, bias, dropout_key)


def _attend(query, key, value, mask, bias, dropout_key, *, soft_cap: float, dropout_rate: float) -> Array:
    dropped = dropout_key is not None and dropout_rate > 0
    if dropped or soft_cap or value.shape[-1] != key.shape[-1]:
        weights = attention_weights(query, key, mask, bias=bias, soft_cap=soft_cap)
        weights = dropout(weights, dropout_rate, dropout_key).astype(value.dtype)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, jnp.repeat(value, query.shape[2] // value.shape[2], axis=2))
    arguments: dict[str, Any]
    # JAX 0.7 forgets a window that nothing else goes with.
    window_alone = mask.window is not None and not mask.causal and mask.key_lengths is None
    if mask.is_structural and not window_alone:
        arguments = {
            "is_causal": mask.causal,
            "local_window_size": mask.window,
            "key_value_seq_lengths": mask.key_lengths,
        }
    else:
        arguments = {"mask": mask.array(query.shape[1], key.shape[1])}
    bias = None if bias is None else bias.astype(query.dtype)
    return jax.nn.dot_product_attention(query, key, value, bias, **arguments)


class Attention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2), to itself or, with `cross`, to a memory.

    A memory may have another width than the model, `memory_dim`. Raises ValueError for heads that do not divide.
    """

    def __init__(self, config: LayerConfig, *, cross: bool = False, memory_dim: int | None = None, rngs: nnx.Rngs):
        d_model, num_heads, num_kv_heads, head_dim = (
            config.d_model,
            config.num_heads,
            config.kv_heads,
            config.head_width,
        )
        if config.head_dim is None and d_model % num_heads:
            raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}")
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}")
        value_dim = head_dim if config.value_dim is None else config.value_dim
        shapes = {"query": (num_heads, head_dim), "key": (num_kv_heads, head_dim), "value": (num_kv_heads, value_dim)}
        use_bias = config.attention_bias
        biases = {"query": use_bias, "key": use_bias if config.key_bias is None else config.key_bias, "value": use_bias}
        widths = {"query": d_model, "key": memory_dim or d_model, "value": memory_dim or d_model}
        projections = tuple(heads * width for heads, width in shapes.values())
        linear = functools.partial(Linear, dtype=config.dtype, rngs=rngs)
        self.query, self.key, self.value = (
            linear(
                (widths[role],),
                shape,
                ("embed", "heads", "head_dim"),
                use_bias=biases[role],
                draw=functools.partial(config.init.kernel, role=role, projections=projections, cross=cross),
            )
            for role, shape in shapes.items()
        )
        self.output = linear(
            (num_heads, value_dim),
            (d_model,),
            ("heads", "head_dim", "embed"),
            use_bias=use_bias if config.attention_output_bias is None else config.attention_output_bias,
            draw=functools.partial(config.init.kernel, role="residual"),
        )
        self.query_norm, self.key_norm = _head_norm(config, *shapes["query"]), _head_norm(config, *shapes["key"])
        self.scale = config.attention_scale
        self.soft_cap = config.soft_cap
        self.dropout = config.attention_dropout
        self.kernel = config.attention_kernel

    def __call__(
        self,
        x: Float[Array, "batch query d_model"],
        memory: Memory | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        positions: TokenPositions | None = None,
        cache: KeyValueCache | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> tuple[Float[Array, "batch query d_model"], KeyValueCache | None, Weights | None]:
        """Attends from `x` to `memory`, or to `x` itself; returns the result, the cache and the weights.

        `memory` is vectors, or the keys and values made of them once (`keys_values`). `positions` are those of the
        tokens of `x`, in self-attention. A `cache` holds the keys and values of the tokens before `x`, and gets those
        of `x`; it needs `positions`. `key` turns dropout on. The weights are returned with `intermediates` alone.
        """
        if isinstance(memory, KeysValues):
            query, (keys, values) = self.query(x), memory
        else:
            query, keys, values = self._projected(x, memory)
            keys = self._keys(keys, positions)
        query = _normed(query, self.query_norm)
        query = query if positions is None else positions.rotate(query, "query")
        bias = None if positions is None else positions.bias()
        if cache is not None:
            if positions is None:
                raise ValueError("attention with a cache needs to know where its tokens stand: give positions")
            cache, visible = cache.extended(keys, values, positions.ids, ring=mask.window is not None)
            keys, values, bias = visible.key, visible.value, positions.bias(visible.positions)
            ids = jnp.broadcast_to(positions.ids, x.shape[:2])
            mask = replace(mask, query_positions=ids, key_positions=visible.positions)
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

    def keys_values(self, memory: Float[Array, "rows key memory_dim"]) -> KeysValues:
        """The keys and values of a memory, to be computed once where it does not change."""
        return KeysValues(self._keys(self.key(memory), None), self.value(memory))

    def start_cache(self, batch: Rows, capacity: int) -> KeyValueCache:
        """An empty cache for `capacity` tokens of each of `batch` sequences."""
        heads, head_dim, value_dim = *self.key.kernel.shape[-2:], self.value.kernel.shape[-1]
        return KeyValueCache.empty(batch, capacity, heads, head_dim, value_dim, self.key.dtype)

    def _projected(self, x: Array, memory: Array | None) -> tuple[Array, Array, Array]:
        """Queries of `x`, keys and values of the memory; in as few products as the devices that divide heads allow."""
        source = x if memory is None else memory
        if num_shards("heads") == 1:
            query, key, value = self.query(x), self.key(source), self.value(source)
        elif memory is None and self.query.kernel.shape[:-1] == self.key.kernel.shape[:-1]:
            query, key, value = in_one_product(x, (self.query, self.key, self.value))
        else:
            query, (key, value) = self.query(x), in_one_product(source, (self.key, self.value))
        return query, key, constrain(value, ("batch", "length", "heads", "head_dim"))

    def _keys(self, key: Array, positions: TokenPositions | None) -> Array:
        key = _normed(key, self.key_norm)
        key = key if positions is None else positions.rotate(key, "key")
        return constrain(key, ("batch", "length", "heads", "head_dim"))


def _head_norm(config: LayerConfig, heads: int, head_dim: int) -> Any:
    """The norm of queries or keys (Henry et al. 2020, "QKNorm"; OLMo Team 2025, "2 OLMo 2 Furious", section 3.3)."""
    match QUERY_KEY_NORMS[config.query_key_norm]:
        case 0:
            return None
        case 1:
            return config.make_norm(head_dim, axis="head_dim")
        case _:
            return config.make_norm(heads * head_dim, axis="heads")


def _normed(x: Array, norm: Any) -> Array:
    """Queries or keys, normalised over as many of their last dimensions as the norm has parameters for."""
    if norm is None or norm.scale.shape[-1] == x.shape[-1]:
        return x if norm is None else norm(x)
    return norm(x.reshape(*x.shape[:2], -1)).reshape(x.shape)
