"""One layer of an encoder or a decoder."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.attention import Attention, KeysValues
from transformer_jax.nn.cache import KeyValueCache
from transformer_jax.nn.feed_forward import FeedForward
from transformer_jax.nn.linear import dropout
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.named import choose
from transformer_jax.nn.norm import NORMS
from transformer_jax.parallel.axes import constrain

Vectors = Float[Array, "batch length d_model"]


@dataclass(frozen=True)
class LayerConfig:
    """The layers of the paper's base model; each later variant is a field."""

    d_model: int = 512
    """Width of the vectors between layers."""
    num_heads: int = 8
    """Attention heads; divides d_model."""
    d_ff: int = 2048
    """Width inside the feed-forward network."""
    dropout: float = 0.1
    """Dropout on the output of every sub-layer and on the embeddings."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    activation: str = "relu"
    """relu, gelu, gelu_tanh or silu."""
    gated: bool = False
    """A second, multiplicative branch in the feed-forward network (GLU)."""
    norm: str = "layer_norm"
    """layer_norm or rms_norm."""
    norm_placement: str = "post"
    """post: LN(x + f(x)), as in the paper; pre: x + f(LN(x))."""
    norm_epsilon: float = 1e-6
    """Added to the variance."""
    attention_bias: bool = False
    """Biases in the four maps of attention."""
    feed_forward_bias: bool = True
    """Biases in the two maps of the feed-forward network."""
    dtype: str = "float32"
    """Type of matrix products: float32 or bfloat16; parameters stay float32."""


class LayerCache(NamedTuple):
    """What a decoder layer keeps between tokens."""

    own: KeyValueCache
    """Keys and values of the tokens so far."""
    memory: KeysValues | None
    """Keys and values of the encoder's output, computed once."""


class TransformerLayer(nnx.Module):
    """Self-attention, attention to a memory (decoders with an encoder) and feed-forward, each with residual and norm.

    The paper's form is `LN(x + dropout(f(x)))` (Vaswani et al. 2017, sections 3.1 and 5.4); with
    `norm_placement="pre"` it is `x + dropout(f(LN(x)))`.
    """

    def __init__(self, config: LayerConfig, *, cross_attention: bool = False, rngs: nnx.Rngs):
        if config.norm_placement not in ("pre", "post"):
            raise ValueError(f"norm_placement is 'pre' or 'post', not {config.norm_placement!r}")
        attention = functools.partial(
            Attention,
            config.d_model,
            config.num_heads,
            use_bias=config.attention_bias,
            dropout=config.attention_dropout,
            dtype=config.dtype,
            rngs=rngs,
        )
        norm = functools.partial(choose("norm", config.norm, NORMS), config.d_model, epsilon=config.norm_epsilon)
        self.self_attention = attention()
        self.self_attention_norm = norm()
        self.cross_attention = attention() if cross_attention else None
        self.cross_attention_norm = norm() if cross_attention else None
        self.feed_forward = FeedForward(
            config.d_model,
            config.d_ff,
            activation=config.activation,
            gated=config.gated,
            use_bias=config.feed_forward_bias,
            dtype=config.dtype,
            rngs=rngs,
        )
        self.feed_forward_norm = norm()
        self.pre_norm = config.norm_placement == "pre"
        self.dropout = config.dropout

    def __call__(
        self,
        x: Vectors,
        memory: Float[Array, "batch memory d_model"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        memory_mask: AttentionMask = EVERYTHING,
        key: PRNGKeyArray | None = None,
    ) -> Vectors:
        """One layer over whole sequences; `key` turns dropout on."""
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        x = self._residual(
            self.self_attention_norm, x, lambda h: self.self_attention(h, mask=mask, key=keys[0]), keys[1]
        )
        if self.cross_attention is not None and memory is not None:
            attend = functools.partial(self.cross_attention, memory=memory, mask=memory_mask, key=keys[2])
            x = self._residual(self.cross_attention_norm, x, attend, keys[3])
        return self._residual(self.feed_forward_norm, x, self.feed_forward, keys[4])

    def start_cache(
        self, batch: int, capacity: int, memory: Float[Array, "rows memory d_model"] | None = None
    ) -> LayerCache:
        """An empty cache for `capacity` tokens of each of `batch` sequences."""
        _, heads, head_dim = self.self_attention.key.kernel.shape
        own = KeyValueCache.empty(batch, capacity, heads, head_dim, self.self_attention.key.dtype)
        if self.cross_attention is None or memory is None:
            return LayerCache(own, None)
        return LayerCache(own, self.cross_attention.keys_values(memory))

    def extend(
        self,
        x: Vectors,
        cache: LayerCache,
        *,
        positions: Int[Array, "batch length"],
        memory_mask: AttentionMask = EVERYTHING,
    ) -> tuple[Vectors, LayerCache]:
        """The layer for `length` more tokens: they see the cached ones and, causally, each other."""
        own, memory, cross_attention = cache.own, cache.memory, self.cross_attention

        def attend_self(h: Vectors) -> Vectors:
            nonlocal own
            own = own.append(*self.self_attention.keys_values(h), positions)
            mask = AttentionMask(causal=True, query_positions=positions, key_positions=own.positions)
            return self.self_attention.attend(h, (own.key, own.value), mask=mask)

        x = self._residual(self.self_attention_norm, x, attend_self)
        if cross_attention is not None and memory is not None:

            def attend_memory(h: Vectors) -> Vectors:
                # Rows that share a memory (the hypotheses of a beam) become further queries of its one row.
                queries = h.reshape(memory[0].shape[0], -1, h.shape[-1])
                return cross_attention.attend(queries, memory, mask=memory_mask).reshape(h.shape)

            x = self._residual(self.cross_attention_norm, x, attend_memory)
        return self._residual(self.feed_forward_norm, x, self.feed_forward), LayerCache(own, memory)

    def attention_weights(
        self,
        x: Vectors,
        memory: Float[Array, "batch memory d_model"] | None,
        *,
        mask: AttentionMask,
        memory_mask: AttentionMask,
    ) -> dict[str, Float[Array, "batch heads length _"]]:
        """The weights of self-attention and, where there is a memory, of cross-attention, for this layer's input."""
        h = self.self_attention_norm(x) if self.pre_norm else x
        weights = {"self_attention": self.self_attention.weights(h, h, mask=mask)}
        if self.cross_attention is not None and memory is not None:
            x = self._residual(self.self_attention_norm, x, lambda h: self.self_attention(h, mask=mask))
            norm: Any = self.cross_attention_norm
            h = norm(x) if self.pre_norm else x
            weights["cross_attention"] = self.cross_attention.weights(h, memory, mask=memory_mask)
        return weights

    def _residual(
        self, norm: Any, x: Vectors, function: Callable[[Vectors], Vectors], key: PRNGKeyArray | None = None
    ) -> Vectors:
        y = function(norm(x) if self.pre_norm else x)
        y = constrain(x + dropout(y, self.dropout, key), ("batch", "length", "embed"))
        return y if self.pre_norm else norm(y)
