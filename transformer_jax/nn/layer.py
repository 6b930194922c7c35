"""One layer of an encoder or a decoder: its sub-layers, residual connections and norms."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.nn.attention import Attention, Memory, Weights
from transformer_jax.nn.cache import KeyValueCache, Rows
from transformer_jax.nn.config import EVERYWHERE, PLACEMENTS, LayerConfig, LayerKind
from transformer_jax.nn.feed_forward import FeedForward
from transformer_jax.nn.linear import drop_rows, dropout
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.named import choose
from transformer_jax.nn.positions import TokenPositions, Vectors
from transformer_jax.parallel.axes import constrain

SubLayer = Callable[[Vectors], Vectors]
"""Self-attention, attention to a memory or the feed-forward network, dropout on its output included."""


class TransformerLayer(nnx.Module):
    """Self-attention, attention to a memory (decoders with an encoder) and feed-forward, each with residual and norm.

    The paper's form is `LN(x + dropout(f(x)))` (Vaswani et al. 2017, sections 3.1 and 5.4); `norm_placement` has the
    others. Another form overrides `combine`, and works in training, in decoding and for looking inside.
    """

    def __init__(
        self,
        config: LayerConfig,
        kind: LayerKind = EVERYWHERE,
        *,
        cross_attention: bool = False,
        memory_dim: int | None = None,
        rngs: nnx.Rngs,
    ):
        before, after = choose("model.norm_placement", config.norm_placement, PLACEMENTS)

        def norm(wanted: bool) -> Any:
            return config.make_norm(config.d_model) if wanted else None

        self.self_attention = Attention(config, rngs=rngs)
        self.self_attention_norm = norm(before and kind.attention_norm)
        self.self_attention_output_norm = norm(after)
        self.cross_attention = (
            Attention(config, cross=True, memory_dim=memory_dim, rngs=rngs) if cross_attention else None
        )
        self.cross_attention_norm = norm(before and cross_attention)
        self.cross_attention_output_norm = norm(after and cross_attention)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.feed_forward_norm = norm(before and not config.parallel_norm)
        self.feed_forward_output_norm = norm(after)

        def scale(wanted: bool = True) -> nnx.Param | None:
            value = config.layer_scale if wanted else None
            return None if value is None else nnx.Param(jnp.full(config.d_model, value), axes=("embed",))

        self.self_attention_layer_scale = scale()
        self.cross_attention_layer_scale = scale(cross_attention)
        self.feed_forward_layer_scale = scale()
        self.kind = kind
        self.post_norm = config.norm_placement == "post"
        self.parallel = config.parallel
        self.dropout = config.dropout

    def __call__(
        self,
        x: Vectors,
        memory: Memory | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        memory_mask: AttentionMask = EVERYTHING,
        positions: TokenPositions | None = None,
        cache: KeyValueCache | None = None,
        key: PRNGKeyArray | None = None,
        drop: Float[Array, ""] | None = None,
        intermediates: bool = False,
    ) -> tuple[Vectors, KeyValueCache | None, dict[str, Weights]]:
        """The layer's output, its cache, and with `intermediates` the weights of its attentions by name.

        `positions` are those of the tokens of `x`. With a `cache`, they follow those in it. `key` turns dropout on;
        `drop` is then the probability with which a row leaves a sub-layer out.
        """
        keys = [None] * 5 if key is None else list(jax.random.split(key, 5))
        inside: dict[str, Weights] = {}
        if self.kind.window is not None:
            mask = replace(mask, window=(self.kind.window, self.kind.window))

        def attend_self(h: Vectors) -> Vectors:
            nonlocal cache
            arguments: dict[str, Any] = {"mask": mask, "positions": positions, "cache": cache}
            y, cache, weights = self.self_attention(h, **arguments, key=keys[0], intermediates=intermediates)
            return finished(y, "self_attention", weights, keys[1])

        def attend_memory(h: Vectors) -> Vectors:
            attention: Any = self.cross_attention
            y, _, weights = attention(h, memory, mask=memory_mask, key=keys[2], intermediates=intermediates)
            return finished(y, "cross_attention", weights, keys[3])

        def feed_forward(h: Vectors) -> Vectors:
            inner = None if keys[4] is None else jax.random.fold_in(keys[4], 1)
            return finished(self.feed_forward(h, key=inner), "feed_forward", None, keys[4])

        def finished(y: Vectors, name: str, weights: Weights | None, key: PRNGKeyArray | None) -> Vectors:
            if weights is not None:
                inside[name] = weights
            y, scale = dropout(y, self.dropout, key), getattr(self, f"{name}_layer_scale")
            y = y if scale is None else y * scale[...].astype(y.dtype).reshape(1, 1, -1)
            return y if key is None or drop is None else drop_rows(y, drop, jax.random.fold_in(key, 2))

        reads_memory = self.cross_attention is not None and memory is not None
        x = self.combine(x, attend_self, attend_memory if reads_memory else None, feed_forward)
        return x, cache, inside

    def combine(
        self, x: Vectors, attend_self: SubLayer, attend_memory: SubLayer | None, feed_forward: SubLayer
    ) -> Vectors:
        """Applies the sub-layers, with the residual connections and norms between them."""
        if self.parallel:
            h = self._normed("self_attention_norm", x)
            shared = self.feed_forward_norm is None
            y = attend_self(h) + feed_forward(h if shared else self._normed("feed_forward_norm", x))
            return constrain(x + y, ("batch", "length", "embed"))
        x = self.add_and_norm("self_attention", x, attend_self)
        x = x if attend_memory is None else self.add_and_norm("cross_attention", x, attend_memory)
        return self.add_and_norm("feed_forward", x, feed_forward)

    def add_and_norm(self, name: str, x: Vectors, sub_layer: SubLayer) -> Vectors:
        """Applies a sub-layer with its residual connection and the norms of its name, `{name}_norm` and so on."""
        y = sub_layer(x if self.post_norm else self._normed(f"{name}_norm", x))
        y = constrain(x + self._normed(f"{name}_output_norm", y), ("batch", "length", "embed"))
        return self._normed(f"{name}_norm", y) if self.post_norm else y

    def start_cache(self, batch: Rows, capacity: int) -> KeyValueCache:
        """An empty cache for `capacity` tokens of each of `batch` sequences, or for as many as the window holds."""
        window = self.kind.window
        return self.self_attention.start_cache(batch, capacity if window is None else min(window + 1, capacity))

    def _normed(self, name: str, x: Vectors) -> Vectors:
        norm = getattr(self, name)
        return x if norm is None else norm(x)
